"""The charts of runs, with their metrics from metrics.jsonl. A chart without data is absent."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trm_agent.report.sources import Source
from trm_agent.runs.rates import wilson


@dataclass(frozen=True)
class ChartSpec:
    """A chart over the steps."""

    name: str
    group: str
    title: str
    series: tuple[tuple[str, str], ...]
    """Regular expression of the whole metric's name, and the label, in which {0} is its first group."""
    unit: str = ""
    log: bool = False
    """True if the chart opens with a logarithmic axis."""
    share: bool = False
    """True if the values are shares, drawn from 0 to 1."""
    about: str = ""


CHARTS = (
    ChartSpec(
        "validation",
        "Success",
        "Validation success by horizon",
        ((r"env/val_success/h(\d+)", "horizon {0}"),),
        share=True,
        about="Bands: 95 % Wilson interval over tasks.",
    ),
    ChartSpec(
        "training",
        "Success",
        "Success of the training episodes",
        (("env/success", "all horizons"), (r"env/success/h(\d+)", "horizon {0}")),
        share=True,
    ),
    ChartSpec("task", "Success", "What the environment counts", ((r"env/task/(.+)", "{0}"),)),
    ChartSpec(
        "acceptance",
        "Trust region",
        "Acceptance, overall and by length",
        (("trm/acceptance", "all sequences"), (r"trm/acceptance_length_q(\d)", "length quartile {0}")),
        share=True,
        about="Share of the sequences that the mask kept; quartile 4 holds the longest.",
    ),
    ChartSpec(
        "rejected",
        "Trust region",
        "Rejected, by reason",
        ((r"trm/rejected_by_(\w+)", "{0}"), ("trm/nonfinite", "not finite"), ("trm/undecided", "undecided")),
        share=True,
        about="A sequence outside of two criteria counts in both.",
    ),
    ChartSpec(
        "inside_turns",
        "Trust region",
        "Turns inside of the threshold",
        ((r"trm/inside_turns_(\d+)", "from turn {0}"),),
        share=True,
        about="Of the sequences with tokens in those turns: share with none above max_token_kl there.",
    ),
    ChartSpec(
        "threshold",
        "Trust region",
        "Adaptive threshold",
        (
            ("trm/max_token_kl", "in use"),
            ("trm/target_threshold", "for the target acceptance"),
            ("trm/avg_token_kl", "of the average, in use"),
            ("trm/target_threshold_avg", "of the average, for the target"),
        ),
        unit="nats",
        log=True,
    ),
    ChartSpec(
        "token_kl",
        "Divergence",
        "Token divergence",
        (
            ("trm/token_kl_mean", "mean"),
            ("trm/token_kl_mean_k3", "mean, sampled k3"),
            ("trm/token_kl_max", "largest"),
            ("trm/token_kl_k2_max", "largest, sampled k2"),
        ),
        unit="nats",
        log=True,
    ),
    ChartSpec(
        "quantiles",
        "Divergence",
        "Largest divergence of a sequence, quantiles",
        ((r"trm/seq_max_kl_p(\d+)", "{0} %"),),
        unit="nats",
        log=True,
    ),
    ChartSpec("ppl_gap", "Divergence", "Perplexity gap", (("trm/ppl_gap", "gap"),), log=True),
    ChartSpec(
        "ratio",
        "Divergence",
        "Extreme importance ratios",
        (("trm/ratio_max", "largest"), ("trm/ratio_min", "smallest")),
        log=True,
    ),
    ChartSpec(
        "position",
        "Divergence",
        "Where the largest divergence sits",
        (("trm/max_kl_position", "0 start, 1 end"),),
        share=True,
    ),
    ChartSpec(
        "bounds",
        "Bounds",
        "Error bounds",
        ((r"trm/bound_(\w+)", "{0}"),),
        log=True,
        about="With the sampled contexts' divergences; above 1 a bound says nothing.",
    ),
    ChartSpec(
        "horizon",
        "Bounds",
        "Effective horizon and longest sequence",
        (("trm/effective_horizon", "effective horizon"), ("trm/horizon", "longest sequence")),
        unit="tokens",
        log=True,
    ),
    ChartSpec(
        "gain",
        "Bounds",
        "Surrogate gain and margin",
        (
            ("trm/surrogate_gain", "gain"),
            ("trm/surrogate_gain_masked", "gain, kept tokens"),
            ("trm/margin", "margin"),
        ),
    ),
    ChartSpec(
        "length",
        "Episodes",
        "Length",
        (("env/response_tokens/mean", "mean"), ("env/response_tokens/max", "longest")),
        unit="tokens",
    ),
    ChartSpec(
        "turns",
        "Episodes",
        "Turns and tool calls",
        (
            ("env/turns/mean", "turns, mean"),
            ("env/turns/max", "turns, most"),
            ("env/tool_calls/mean", "tool calls, mean"),
        ),
    ),
    ChartSpec("stops", "Episodes", "Stop reasons", ((r"env/stop_reason/(.+)", "{0}"),), share=True),
    ChartSpec(
        "shares",
        "Episodes",
        "Malformed turns and the model's share of the tokens",
        (("env/malformed_turn_frac", "malformed turns"), ("env/model_token_frac", "the model's tokens")),
        share=True,
    ),
    ChartSpec(
        "failures",
        "Episodes",
        "Infrastructure failures",
        (
            ("env/infrastructure_failures", "training"),
            (r"env/infrastructure_failures/(.+)", "training, {0}"),
            ("env/val_infrastructure_failures", "validation"),
            (r"env/val_infrastructure_failures/(.+)", "validation, {0}"),
        ),
        unit="episodes",
    ),
    ChartSpec("timings", "Time", "Time of a step, by phase", ((r"timing_s/(\w+)", "{0}"),), unit="s", log=True),
    ChartSpec(
        "speed", "Time", "The model's tokens per second", (("run/tokens_per_s", "tokens per second"),), unit="1/s"
    ),
    ChartSpec("loss", "Optimiser", "Gradient norm", (("actor/grad_norm", "norm"),), log=True),
    ChartSpec("lr", "Optimiser", "Learning rate", (("actor/lr", "rate"),)),
)


def charts(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return all charts that have data.

    Returns:
        JSON-clean: `name`, `group`, `title`, `about`, `unit`, `log`, `share`, `x` (its axis), `series`, each with
        `run` (index into `sources`), `label`, `x`, `y` and where known `low`, `high`; null where not finite.
    """
    found = []
    for spec in CHARTS:
        series = [entry for run, source in enumerate(sources) for entry in _series(spec, run, source)]
        # a count that stays 0 in every step is not worth a chart
        if series and not (spec.name == "failures" and not any(any(entry["y"]) for entry in series)):
            found.append(_chart(spec, series))
    return [*_by_horizon(sources), *found]


def number(value: Any) -> float | None:
    """Return a finite number, else None, which a chart shows as a gap."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _chart(spec: ChartSpec, series: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("name", "group", "title", "about", "unit", "log", "share")
    return {key: getattr(spec, key) for key in keys} | {"x": "step", "series": series}


def _series(spec: ChartSpec, run: int, source: Source) -> list[dict[str, Any]]:
    rows = source.metrics
    names = {name for row in rows for name in row}
    found = []
    for pattern, label in spec.series:
        matches = [match for name in names if (match := re.fullmatch(pattern, name))]
        for match in sorted(matches, key=lambda match: _order(match.group(0))):
            metric = match.group(0)
            points = [row for row in rows if metric in row]
            entry: dict[str, Any] = {
                "run": run,
                "label": label.format(*match.groups()).replace("_", " "),
                "metric": metric,
                "x": [row["step"] for row in points],
                "y": [number(row[metric]) for row in points],
            }
            if spec.name == "validation":
                entry |= _band(source, points, metric)
            if any(value is not None for value in entry["y"]):
                found.append(entry)
    return found


def _order(name: str) -> list[Any]:
    parts = re.split(r"([0-9]{1,18})", name)
    return [(1, 0, part) if place % 2 == 0 else (0, int(part), "") for place, part in enumerate(parts)]


def _interval(source: Source, row: Mapping[str, Any], metric: str) -> tuple[float | None, float | None]:
    share = number(row.get(metric))
    num_tasks = source.num_tasks(row.get(metric.replace("val_success", "val_num_episodes")))
    if share is None or num_tasks is None or not 0 <= share <= 1:
        return None, None
    return wilson(share, num_tasks)


def _band(source: Source, rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    intervals = [_interval(source, row, metric) for row in rows]
    return {"low": [low for low, _ in intervals], "high": [high for _, high in intervals]}


def _is_validation(name: str) -> bool:
    return re.fullmatch(r"env/val_success/h[0-9]{1,18}", name) is not None


def _by_horizon(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return success over the horizon at the first and the last validation."""
    series: list[dict[str, Any]] = []
    for run, source in enumerate(sources):
        validations = [row for row in source.metrics if any(map(_is_validation, row))]
        # the last one first, so that it takes the full line
        for row in [validations[-1], validations[0]][: len(validations)] if validations else []:
            metrics = sorted(filter(_is_validation, row), key=_order)
            horizons = [int(name.rsplit("h", 1)[1]) for name in metrics]
            intervals = [_interval(source, row, name) for name in metrics]
            series.append(
                {
                    "run": run,
                    "label": f"step {row['step']}",
                    "x": horizons,
                    "y": [number(row[name]) for name in metrics],
                    "low": [low for low, _ in intervals],
                    "high": [high for _, high in intervals],
                }
            )
    if not series or max(len(entry["x"]) for entry in series) < 2:
        return []
    about = "First and last validation. Bars: 95 % Wilson interval over tasks."
    spec = ChartSpec("by_horizon", "Success", "Validation success over the horizon", (), share=True, about=about)
    return [_chart(spec, series) | {"x": "horizon", "points": True}]
