"""The table of an evaluation on the screen."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trm_agent.evaluate.statistics.intervals import FEW_TASKS, UNSEEN_TASKS
from trm_agent.evaluate.statistics.paired import RARE_DIFFERENCES

MARKS = {FEW_TASKS: "!", UNSEEN_TASKS: "*", RARE_DIFFERENCES: "+"}


def table(summary: Mapping[str, Any]) -> str:
    """Format the figures for the screen, at most 100 columns wide."""
    k = summary["samples"]
    lines = [
        f"avg@{k} with 95 % intervals over tasks: {summary['episodes']} episodes, "
        f"{summary['infrastructure_failures']} infrastructure failures (in no rate)"
    ]
    for name in summary["environments"]:
        results = [result for result in summary["results"] if result["env"] == name]
        if not results:
            continue
        head = f"{'checkpoint':<28}{'horizon':>8}{'tasks':>6}{f'avg@{k}':>8}{'95 % interval':>17}"
        head += f"{f'pass@{k}':>9}{f'pass^{k}':>9}{'turns':>7}{'tokens':>8}"
        lines += ["", name, head, "-" * len(head)]
        for result in results:
            parts = result["by_horizon"] if len(result["by_horizon"]) > 1 else []
            label = [_cut(result["checkpoint"], 27), *[""] * len(parts)]
            lines += [_line(*pair, k) for pair in zip(label, [result, *parts], strict=True)]
        lines += _legend(part["success"] for result in results for part in (result, *result["by_horizon"]))
        lines += _lost(results, k)
        if any(result["horizon_length"]["reason"] != "no horizon" for result in results):
            lines += ["", "horizon length (steps at 50 % success)"]
            lines += [f"  {_cut(r['checkpoint'], 25):<26}{_length(r['horizon_length'])}" for r in results]
        comparisons = [comparison for comparison in summary["comparisons"] if comparison["env"] == name]
        lines += _paired(comparisons)
        lines += _legend(part for each in comparisons for part in (each, *each["by_horizon"]))
        lines += _reasons("why episodes stopped", results, "stop_reasons", True)
        lines += _reasons("infrastructure failures", results, "infrastructure_failures", False)
    return "\n".join(lines)


def _line(label: str, figures: Mapping[str, Any], k: int) -> str:
    success, means = figures["success"], figures["means"]
    horizon = str(figures.get("horizon", "all"))
    at, hat = figures["pass_at_k"][str(k)]["value"], figures["pass_hat_k"][str(k)]["value"]
    return (
        f"{label:<28}{horizon:>8}{figures['tasks']:>6}{_percent(success['value']):>8}{_interval(success):>17}"
        f"{_percent(at):>9}{_percent(hat):>9}{_number(means['turns'], 1):>7}{_number(means['model_tokens'], 0):>8}"
    )


def _legend(intervals: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the legend of the marks beside the intervals; empty for the summary of an older evaluation."""
    notes = {interval.get("note") for interval in intervals}
    return [f"{mark} {note}" for note, mark in MARKS.items() if note in notes]


def _lost(results: Sequence[Mapping[str, Any]], k: int) -> list[str]:
    """Format the figures of tasks that lost samples to failures: their number of tasks and their bounds."""
    lines = []
    for result in results:
        parts = result["by_horizon"] if len(result["by_horizon"]) > 1 else []
        label = _cut(result["checkpoint"], 25)
        for part in (result, *parts):
            if not part.get("tasks_that_lost_samples"):
                continue
            total = part["tasks"] + part["tasks_without_episode"]
            texts = [f"horizon {part.get('horizon', 'all')}: {part['tasks_that_lost_samples']} of {total} tasks"]
            figures = (("avg@", part["success"]), ("pass@", part["pass_at_k"][str(k)]))
            for name, figure in (*figures, ("pass^", part["pass_hat_k"][str(k)])):
                bounds = f"{_percent(figure['least'])} to {_percent(figure['most'])}"
                texts.append(
                    f"{name}{k} {_percent(figure['value'])} on {figure['num_tasks']}: {bounds} {_interval(figure)}"
                )
            lines += _wrapped(label, texts)
            label = ""
    title = "tasks that lost samples: on how many a figure stands; with all lost failed to succeeded [95 %]"
    return ["", title, *lines] if lines else []


def with_lost(length: Mapping[str, Any]) -> str:
    """Format the bounds of a horizon length without a fit if samples were lost; empty otherwise."""
    end, bound, side = {
        "above": (length.get("longest"), length.get("low"), "or more"),
        "below": (length.get("shortest"), length.get("high"), "or less"),
    }.get(str(length.get("status")), (None, None, ""))
    if length.get("reason") is None or bound == end:
        return ""
    return f"; the lost samples allow {'any length' if bound is None else f'{_number(bound, 1)} {side}'}"


def _length(length: Mapping[str, Any]) -> str:
    """Return one line: the fit, or the reason for a missing one."""
    status, longest, shortest = length["status"], length["longest"], length["shortest"]
    if length["reason"] is not None:
        bound = {"above": f"above {_number(longest, 0)}: ", "below": f"below {_number(shortest, 0)}: "}
        return f"{bound.get(status, '- ')}{length['reason']}{with_lost(length)}"
    text = f"{_number(length['steps'], 1)} [{_number(length['low'], 1)}, {_number(length['high'], 1)}]"
    if status == "inside":
        return text
    end = longest if status == "above" else shortest
    return f"{text} extrapolated: {status} {end:g}, where the measured horizons end"


def _paired(comparisons: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = []
    for comparison in comparisons:
        first, second = (_cut(comparison[side], 24) for side in ("first", "second"))
        lines += ["", f"{second} minus {first}, on the same tasks"]
        parts = comparison["by_horizon"] if len(comparison["by_horizon"]) > 1 else []
        for part in (comparison, *parts):
            value = "-" if part["difference"] is None else f"{100 * part['difference']:+.1f}"
            p = part["p_value"]
            shown = "-" if p is None else f"p < {0.001}" if p < 0.001 else f"p = {p:.3f}"
            lines.append(
                f"{'':<28}{part.get('horizon', 'all'):>8}{part['num_tasks']:>6}{value:>8}{_interval(part):>17}  {shown}"
            )
    return lines


def _reasons(title: str, results: Sequence[Mapping[str, Any]], key: str, as_share: bool) -> list[str]:
    lines = []
    for result in results:
        total = sum(result[key].values())
        if total:
            texts = [
                f"{name} {_percent(count / total)} %" if as_share else f"{name} {count}"
                for name, count in sorted(result[key].items(), key=lambda item: -item[1])
            ]
            lines += _wrapped(_cut(result["checkpoint"], 25), texts)
    return ["", title, *lines] if lines else []


def _wrapped(label: str, texts: Sequence[str], width: int = 98) -> list[str]:
    lines = [f"  {label:<26}"]
    for index, text in enumerate(texts):
        piece = text + ("," if index < len(texts) - 1 else "")
        if len(lines[-1]) + len(piece) + 1 > width:
            lines.append(" " * 28)
        lines[-1] += f"{piece} "
    return [line.rstrip() for line in lines]


def _interval(estimate: Mapping[str, Any]) -> str:
    return f"[{_percent(estimate['low'])}, {_percent(estimate['high'])}]{MARKS.get(estimate.get('note') or '', '')}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _cut(text: str, width: int) -> str:
    """Return the end of a long label: checkpoints of one run differ there."""
    return text if len(text) <= width else "…" + text[1 - width :]
