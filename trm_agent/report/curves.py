"""The charts of runs, with their metrics from metrics.jsonl. A chart without data is absent."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.report.chart_specs import CHARTS, ChartSpec
from trm_agent.report.diagnostic_charts import DIAGNOSTIC_CHARTS
from trm_agent.report.sources import Source
from trm_agent.runs.rates import wilson


def charts(sources: Sequence[Source], gaps: Sequence[Sequence[dict[str, Any]]] = ()) -> list[dict[str, Any]]:
    """Return all charts that have data.

    Args:
        sources: the runs.
        gaps: for each run further series for the chart of a step's time.

    Returns:
        JSON-clean: `name`, `group`, `title`, `about`, `unit`, `log`, `share`, `smooth`, `x` (its axis), `series`, each
        with `run` (index into `sources`), `label`, `x`, `y` and where known `low`, `high`; null where not finite.
    """
    found = []
    for spec in (*CHARTS, *DIAGNOSTIC_CHARTS):
        series = [entry for run, source in enumerate(sources) for entry in _series(spec, run, source)]
        if spec.name == "timings":
            series += [{"run": run, **entry} for run, entries in enumerate(gaps) for entry in entries]
        # a count that stays 0 in every step is not worth a chart
        if series and not (spec.name == "failures" and not any(any(entry["y"]) for entry in series)):
            found.append(chart_of(spec, series))
    return [*_by_horizon(sources), *found]


def number(value: Any) -> float | None:
    """Return a finite number, else None, which a chart shows as a gap."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def chart_of(spec: ChartSpec, series: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a chart over the steps, as `charts` does, from its series."""
    keys = ("name", "group", "title", "about", "unit", "log", "share", "smooth")
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
            elif f"{metric}_low" in names:
                entry |= {end: [number(row.get(f"{metric}_{end}")) for row in points] for end in ("low", "high")}
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
    return [chart_of(spec, series) | {"x": "horizon", "points": True}]
