"""Where a run's time went, in all and step by step; times that nobody measured are named by where they fall.

step = start + generation + update + weights + checkpoints + gaps
from one step's row in metrics.jsonl to the next = step + validation + between steps
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.evaluate.results import is_finite
from trm_agent.report.curves import number
from trm_agent.report.sources import Source

PREPARATION = "preparation (checks, warm start)"
START_UP = "start-up"
FIRST = "start of generation"
# phase -> verl's timings that it adds up
PHASES = {
    FIRST: ("start",),
    "generation": ("gen",),
    "update": ("old_log_prob", "ref", "values", "adv", "update_actor", "update_critic", "reward"),
    "weights": ("update_weights",),
    "validation": ("testing",),
    "checkpoints": ("save_checkpoint",),
}
GAPS = "gaps inside steps"
BETWEEN = "between steps (metrics, files)"
REST = "rest"
# of start-up, with which each session of a run begins
FIRST_PHASE = "driver"
# those that a bar of a whole run and a bar of one step share have the same colour in both
COLOURS = {PREPARATION: 0, START_UP: 1, FIRST: 9, "generation": 2, "update": 3, "weights": 4, "validation": 5}
COLOURS |= {"checkpoints": 6, GAPS: 7, BETWEEN: 8}
Shares = list[tuple[str, float]]
"""Phases with their seconds."""


def time_shares(source: Source) -> Shares:
    """Return the seconds of a run's phases, what precedes training first, the rest last; empty without a timed step.

    The gaps inside steps and the times between them are one phase each; the rest is what remains of the wall time: the
    way from the agent loops to the first step, and the end of each session.
    """
    if not any(is_finite(row.get("timing_s/step")) for row in source.metrics):
        return []
    sessions = _sessions(source.startup)
    spent = {START_UP: sum(times[-1] - times[0] for times in sessions)}
    if (prepared := _prepared(source.sessions, sessions)) is not None:
        spent = {PREPARATION: prepared, **spent}
    traces = [dict(trace) for _, trace in step_traces(source)]
    for phase in (*PHASES, GAPS, BETWEEN):
        spent[phase] = sum(trace.get(phase, 0.0) for trace in traces)
    first = source.metrics[0]
    if sessions and not _seconds(first, "step") and is_finite(first.get("time")):
        # the validation before the first step, which verl does not time
        spent["validation"] += max(0.0, first["time"] - sessions[0][-1])
    total = number((source.summary or {}).get("wall_s"))
    if total is None:
        total = sum(spent.values())
    return [*spent.items(), (REST, max(0.0, total - sum(spent.values())))]


def step_traces(source: Source) -> list[tuple[int, Shares]]:
    """Return each step's phases in the order of time: those that verl measures, the gaps in it and the way to it.

    The time between a step and the one before it is known where both rows have a time and no start-up lies between.
    """
    starts = [times[0] for times in _sessions(source.startup)]
    found: list[tuple[int, Shares]] = []
    before: float | None = None
    for row in source.metrics:
        now = number(row.get("time"))
        whole = number(row.get("timing_s/step"))
        if whole is not None and is_finite(row.get("step")):
            trace = {phase: sum(_seconds(row, name) for name in names) for phase, names in PHASES.items()}
            inside = sum(trace.values()) - trace["validation"]
            trace |= {GAPS: max(0.0, whole - inside), BETWEEN: 0.0}
            if now is not None and before is not None and not any(before < start <= now for start in starts):
                trace[BETWEEN] = max(0.0, now - before - whole - trace["validation"])
            # after the step, as it came
            for last in ("validation", BETWEEN):
                trace[last] = trace.pop(last)
            found.append((int(row["step"]), list(trace.items())))
        before = now
    return found


def shown_steps(source: Source) -> list[dict[str, Any]]:
    """Return the steps that the page draws: the typical one, then the first, the slowest and the last, each once.

    Without their validations, which few steps have.

    Returns:
        JSON-clean: `label`, `phases`, each with its name, seconds and colour; empty without a timed step.
    """
    traces = step_traces(source)
    if not traces:
        return []

    def length(trace: tuple[int, Shares]) -> float:
        return sum(seconds for phase, seconds in trace[1] if phase != "validation")

    by_length = sorted(traces, key=length)
    chosen = {"typical step": by_length[(len(by_length) - 1) // 2], "first step": traces[0]}
    chosen |= {"slowest step": by_length[-1], "last step": traces[-1]}
    shown: list[dict[str, Any]] = []
    for step, phases in dict.fromkeys((step, tuple(phases)) for step, phases in chosen.values()):
        names = [name for name, (of, _) in chosen.items() if of == step]
        played = [each for each in phases if each[0] != "validation"]
        label = " and ".join([*(name.removesuffix(" step") for name in names[:-1]), names[-1]])
        shown.append({"label": f"{label}, {step}", "phases": coloured(played)})
    return shown


def gap_series(source: Source) -> list[dict[str, Any]]:
    """Return the curves of the times that nobody measured, for the chart of a step's time."""
    traces = step_traces(source)
    found = []
    for phase in (GAPS, BETWEEN):
        values = [dict(trace)[phase] for _, trace in traces]
        if any(values):
            label = phase.partition(" (")[0]
            found.append({"label": label, "metric": label, "x": [step for step, _ in traces], "y": values})
    return found


def cost_of_a_step(source: Source) -> list[tuple[str, str]]:
    """Return what a run's steps cost, as names and texts: who waited, the weights' way, tokens a second.

    Means over the time of the steps that tell, so that a long step counts more than a short one.
    """
    waits = [(name, _over_time(source, f"run/{name}_idle")) for name in ("trainer", "servers", "queue")]
    told = [f"{name} {100 * share:.0f} %" for name, share in waits if share is not None]
    found = [("idle in a step", ", ".join(told))] if told else []
    timed = [row for row in source.metrics if _seconds(row, "step") and is_finite(row.get("timing_s/update_weights"))]
    if timed:
        seconds, whole = (sum(_seconds(row, name) for row in timed) for name in ("update_weights", "step"))
        found.append(("weights", f"{seconds / len(timed):.2f} s a step, {100 * seconds / whole:.1f} % of it"))
    speed = _over_time(source, "run/tokens_per_s")
    return [*found, ("tokens a second", f"{speed:.0f}")] if speed is not None else found


def _over_time(source: Source, metric: str) -> float | None:
    """Return a metric's mean over the seconds of the steps that have it; None where none has."""
    rows = [(value, _seconds(row, "step")) for row in source.metrics if (value := number(row.get(metric))) is not None]
    whole = sum(seconds for _, seconds in rows)
    return sum(value * seconds for value, seconds in rows) / whole if whole else None


def coloured(shares: Shares) -> list[tuple[str, float, int | None]]:
    """Return phases with their colour's number; None for the rest."""
    return [(name, seconds, COLOURS.get(name)) for name, seconds in shares]


def _sessions(startup: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return the times of each session's phases of start-up, in order."""
    sessions: list[list[float]] = []
    for row in startup:
        if is_finite(row.get("time")):
            if row.get("phase") == FIRST_PHASE or not sessions:
                sessions.append([])
            sessions[-1].append(row["time"])
    return sessions


def _prepared(begun: Sequence[Mapping[str, Any]], sessions: Sequence[Sequence[float]]) -> float | None:
    """Return the seconds from each command to its driver; None where no record tells when a command began."""
    starts = [row["started"] for row in begun if is_finite(row.get("started"))]
    before = [(times[0], [start for start in starts if start <= times[0]]) for times in sessions]
    spans = [first - max(earlier) for first, earlier in before if earlier]
    return sum(spans) if spans else None


def _seconds(row: Mapping[str, Any], name: str) -> float:
    return max(0.0, number(row.get(f"timing_s/{name}")) or 0.0)
