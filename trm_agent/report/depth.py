"""The chart that says at a glance whether the mismatch grows with depth: both axes logarithmic, and a verdict."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from trm_agent.report.chart_specs import ChartSpec
from trm_agent.report.curves import chart_of, number
from trm_agent.report.sources import Source
from trm_agent.trust_region.growth import Growth, growth

_BIN = re.compile(r"trm/num_tokens_depth_([0-9]{1,18})")
ABOUT = (
    "Of all steps: mean token divergence (of the average criterion) over the tokens before it, and the fitted power "
    "law. Flat is a slope below 0.2. From the second update of a step on, the policy's own change counts too: "
    "trm numerics measures the engines alone."
)


def depth_charts(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return the chart as `curves.charts` does; none without a run that has measured by depth."""
    series: list[dict[str, Any]] = []
    verdicts = []
    for run, source in enumerate(sources):
        found = run_growth(source)
        if found is None or not len(found.kl):
            continue
        verdicts.append(found.told())
        depths = [float(f"{depth:.4g}") for depth in found.depth]
        measured = {"run": run, "label": f"measured: {found.told()}", "x": depths, "y": found.kl.tolist()}
        series.append(measured)
        fitted = found.fitted()
        if fitted is not None:
            series.append({"run": run, "label": "fitted", "x": depths, "y": fitted.tolist(), "line": True})
    if not series:
        return []
    told = verdicts[0] if len(verdicts) == 1 else "; ".join(dict.fromkeys(verdicts))
    title = f"Does the mismatch grow with depth? {told[0].upper()}{told[1:]}"
    spec = ChartSpec("by_depth", "Divergence", title, (), unit="nats", log=True, about=ABOUT)
    return [chart_of(spec, series) | {"x": "tokens before", "points": True, "log_x": True}]


def run_growth(source: Source) -> Growth | None:
    """Judge the steps of a run together; None where none has measured by depth."""
    names = {name for row in source.metrics for name in row}
    bins = sorted(int(found[1]) for name in names if (found := _BIN.fullmatch(name)))
    steps = [row for row in source.metrics if any(f"trm/num_tokens_depth_{first}" in row for first in bins)]
    if not steps:
        return None

    def column(name: str) -> np.ndarray:
        return np.array([[number(row.get(f"trm/{name}_{first}")) or 0.0 for first in bins] for row in steps])

    # a bin without a finite mean in some step counts for nothing there
    depth, kl, known = column("mean_depth"), column("token_kl_mean_depth"), column("num_known_tokens_depth")
    # a mean weighs as many tokens as it is of; the number is told where these are not all
    tokens = np.where(depth > 0, np.where(known > 0, known, column("num_tokens_depth")), 0.0)
    return growth(tokens, tokens * depth, tokens * kl)
