"""Evaluations: success over the horizon and over the samples, and the figures as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.evaluate.statistics.screen import MARKS, with_lost
from trm_agent.report.curves import number
from trm_agent.report.sources import Source

# the figures of an unfinished evaluation are computed anew for every page
RESAMPLES_IN_PROGRESS = 1000
MOST_SAMPLES = 10_000
# raised on values of another kind than ours; such a folder gets a page without figures, and a note
DAMAGED = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


def figures(source: Source) -> dict[str, Any]:
    """Return summary.json of a finished evaluation, else the figures of the results so far; empty for a run."""
    if source.kind != "evaluation":
        return {}
    from trm_agent.evaluate.repeats import with_problems
    from trm_agent.evaluate.summary import summarise

    rows: list[Any] = source.results
    try:
        rows, notes = with_problems(source.results, source.config)
        source.notes += [note for note in notes if note not in source.notes]
        if rows == source.results and source.summary is not None and isinstance(source.summary.get("results"), list):
            return _drawable(source, source.summary)
    except DAMAGED as error:
        _note(source, f"its config.yaml or summary.json is damaged: {error!r}")
    if not rows:
        return {}
    asked = source.config.get("samples")
    samples = asked if isinstance(asked, int) and 0 < asked < MOST_SAMPLES else 1
    try:
        return _drawable(source, summarise(rows, samples, num_resamples=RESAMPLES_IN_PROGRESS))
    except DAMAGED as error:
        _note(source, f"results.jsonl: no figures can be made of it: {error!r}")
        return {}


def _drawable(source: Source, summary: dict[str, Any]) -> dict[str, Any]:
    """Return a summary of which charts and tables can be made."""
    evaluation_charts([summary])
    evaluation_tables([source], [summary])
    return summary


def _note(source: Source, text: str) -> None:
    note = " ".join(text.split())[:240]
    source.notes += [] if note in source.notes else [note]


def evaluation_charts(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Chart success over the horizon, and pass@k and pass^k over k, with a line per checkpoint and environment.

    Args:
        found: the `figures` of the folders.

    Returns:
        As `trm_agent.report.curves.charts`; a chart without data is absent.
    """
    horizon: list[dict[str, Any]] = []
    passes: list[dict[str, Any]] = []
    hats: list[dict[str, Any]] = []
    for run, summary in enumerate(found):
        for result in summary.get("results") or []:
            start = {"run": run, "label": f"{result.get('checkpoint')}, {result.get('env')}"}
            levels = [row for row in result.get("by_horizon") or [] if row.get("horizon") is not None]
            horizon.append(start | _line([row["horizon"] for row in levels], [row.get("success") for row in levels]))
            for name, lines in (("pass_at_k", passes), ("pass_hat_k", hats)):
                values = result.get(name) or {}
                lines.append(start | _line([int(k) for k in values], list(values.values())))
    about = "Bars: 95 % intervals; a task is the unit, its samples share its difficulty."
    charts = [
        _chart("evaluation", "Success over the horizon", "horizon", horizon, 1, about),
        _chart("pass_at_k", "pass@k: at least one of k samples succeeds", "k", passes, 2, "Unbiased; 95 % intervals."),
        _chart("pass_hat_k", "pass^k: all of k samples succeed", "k", hats, 2, "Unbiased; 95 % intervals."),
    ]
    return [chart for chart in charts if chart is not None]


def evaluation_tables(sources: Sequence[Source], found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures: `title`, `about`, `columns`, `rows` (texts)."""
    tables = []
    for source, summary in zip(sources, found, strict=True):
        results = summary.get("results") or []
        if not results:
            continue
        state = "" if source.finished else ", so far"
        k = summary.get("samples")
        columns = ["checkpoint", "environment", "horizon", "tasks", "episodes", "success, %", f"pass@{k}, %"]
        columns += [f"pass^{k}, %", "horizon length", "not played"]
        rows = [line for result in results for line in _success_lines(result, str(k))]
        about = (
            "In brackets 95 % intervals, which hold for tasks, not for samples. Not played: infrastructure failures; "
            "where tasks lost samples to them, the intervals allow for these having failed or succeeded. "
            + _legend(results)
        )
        tables.append({"title": f"{source.label}{state}: success", "about": about, "columns": columns, "rows": rows})
        columns = ["checkpoint", "environment", "turns", "tool calls", "malformed turns", "model tokens", "tokens"]
        columns += ["counted by the environment", "stop reasons"]
        rows = [_behaviour(result) for result in results]
        tables.append(
            {"title": f"{source.label}{state}: episodes", "about": "Means.", "columns": columns, "rows": rows}
        )
        comparisons = summary.get("comparisons") or []
        if comparisons:
            columns = ["environment", "first", "second", "horizon", "tasks", "second - first, 95 %", "p"]
            rows = [line for comparison in comparisons for line in _comparison_lines(comparison)]
            title = f"{source.label}{state}: paired comparison"
            about = "On the tasks that both played: bootstrap over tasks, and a permutation test of no difference. "
            about += _legend(comparisons)
            tables.append({"title": title, "about": about, "columns": columns, "rows": rows})
    return tables


def _legend(entries: Any) -> str:
    """Return the legend of the marks beside a table's intervals."""
    found: set[str] = set()
    unread = [*entries]
    while unread:
        entry = unread.pop()
        if isinstance(entry, Mapping):
            found.add(str(entry.get("note")))
            unread += entry.values()
        elif isinstance(entry, list):
            unread += entry
    return " ".join(f"{mark} {note}." for note, mark in MARKS.items() if note in found)


def _line(x: list[Any], estimates: list[Any]) -> dict[str, Any]:
    known = [estimate if isinstance(estimate, Mapping) else {} for estimate in estimates]
    names = (("y", "value"), ("low", "low"), ("high", "high"))
    return {"x": x} | {name: [number(estimate.get(key)) for estimate in known] for name, key in names}


def _chart(
    name: str, title: str, x: str, series: list[dict[str, Any]], least: int, about: str
) -> dict[str, Any] | None:
    shown = [entry for entry in series if len(entry["x"]) >= least and any(y is not None for y in entry["y"])]
    if not shown:
        return None
    fixed = {"group": "Evaluation", "unit": "", "log": False, "share": True, "points": True, "by_series": True}
    return {"name": name, "title": title, "about": about, "x": x, "series": shown} | fixed


def _success_lines(result: Mapping[str, Any], k: str) -> list[list[str]]:
    start = [str(result.get("checkpoint")), str(result.get("env"))]
    lines = [[*start, "all", *_figures(result, k), _length(result.get("horizon_length") or {}), _failures(result)]]
    for row in result.get("by_horizon") or []:
        lines.append(["", "", str(row.get("horizon")), *_figures(row, k), "", _failures(row)])
    return lines


def _figures(row: Mapping[str, Any], k: str) -> list[str]:
    passes = [_bounded((row.get(name) or {}).get(k), row) for name in ("pass_at_k", "pass_hat_k")]
    return [_text(row.get("tasks")), _text(row.get("episodes")), _bounded(row.get("success"), row), *passes]


def _behaviour(result: Mapping[str, Any]) -> list[str]:
    means, numbers = result.get("means") or {}, result.get("numbers") or {}
    shown = (means.get("turns"), means.get("tool_calls"))
    stops = sorted((result.get("stop_reasons") or {}).items(), key=lambda item: -item[1])
    return [
        str(result.get("checkpoint")),
        str(result.get("env")),
        *map(_text, shown),
        _percent(result.get("malformed_turn_frac")),
        _text(means.get("model_tokens")),
        _text(means.get("response_tokens")),
        ", ".join(f"{name} {_text(value)}" for name, value in numbers.items()) or "-",
        ", ".join(f"{name} {count}" for name, count in stops) or "-",
    ]


def _comparison_lines(comparison: Mapping[str, Any]) -> list[list[str]]:
    names = [str(comparison.get(name)) for name in ("env", "first", "second")]
    rows = [("all", comparison), *((_text(row.get("horizon")), row) for row in comparison.get("by_horizon") or [])]
    return [
        [
            *(names if horizon == "all" else ["", "", ""]),
            horizon,
            _text(row.get("num_tasks")),
            f"{_points(row.get('difference'))} "
            f"[{_points(row.get('low'))}, {_points(row.get('high'))}]{_mark(row)} points",
            "-" if number(row.get("p_value")) is None else f"{row['p_value']:.2g}",
        ]
        for horizon, row in rows
    ]


def _length(length: Mapping[str, Any]) -> str:
    steps = number(length.get("steps"))
    if steps is None:
        return f"{length.get('reason') or '-'}{with_lost(length)}"
    low, high = (_text(length.get(name)) for name in ("low", "high"))
    outside = "" if length.get("status") == "inside" else f", {length.get('status')} the measured horizons"
    return f"{_text(steps)} [{low}, {high}]{outside}"


def _failures(row: Mapping[str, Any]) -> str:
    failures = row.get("infrastructure_failures") or {}
    return ", ".join(f"{name} {count}" for name, count in failures.items()) or "0"


def _estimate(estimate: Any) -> str:
    if not isinstance(estimate, Mapping) or number(estimate.get("value")) is None:
        return "-"
    value, low, high = (100 * (number(estimate.get(name)) or 0.0) for name in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]{_mark(estimate)}"


def _mark(estimate: Mapping[str, Any]) -> str:
    """Return the mark that `trm eval` puts beside an interval with less coverage than the others."""
    return MARKS.get(str(estimate.get("note")), "")


def _bounded(estimate: Any, row: Mapping[str, Any]) -> str:
    """Format an estimate, with its number of tasks if not all, and its bounds if samples were lost."""
    text = _estimate(estimate)
    if not isinstance(estimate, Mapping):
        return text
    number_of_tasks = estimate.get("num_tasks")
    if number_of_tasks is not None and (row.get("tasks_that_lost_samples") or number_of_tasks != row.get("tasks")):
        text += f" on {number_of_tasks} tasks"
    least, most = number(estimate.get("least")), number(estimate.get("most"))
    if least is not None and most is not None:
        text += f"; lost samples failed to succeeded: {100 * least:.1f} to {100 * most:.1f}"
    return text


def _percent(share: Any) -> str:
    value = number(share)
    return "-" if value is None else f"{100 * value:.1f} %"


def _points(difference: Any) -> str:
    value = number(difference)
    return "-" if value is None else f"{100 * value:+.1f}"


def _text(value: Any) -> str:
    known = number(value)
    return "-" if known is None else f"{known:.0f}" if known == int(known) else f"{known:.3g}"
