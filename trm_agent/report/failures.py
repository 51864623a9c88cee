"""How episodes ended, by horizon: the categories behind a success rate."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

SOLVED, UNKNOWN = "solved", "not known"
# stop reason -> category; one that is absent here is its own category
STOPS = {
    "max_tokens": "ran out of tokens",
    "max_turns": "ran out of turns",
    "max_tool_calls": "ran out of tool calls",
    "max_tool_time": "ran out of tool time",
}
ENDED = ("terminated", "truncated")
SCORER, EARLY, MALFORMED, WRONG = "scorer error", "answered early", "wrong after a malformed call", "wrong answer"
ORDER = (SOLVED, WRONG, EARLY, MALFORMED, *STOPS.values(), SCORER)
ABOUT = (
    "Share and number of the recorded episodes{}. Answered early: before the task's last step. "
    "Wrong after a malformed call: a call of the episode could not be read."
)
OF_STEPS = ", of the first and of the last recorded step of training"


def category(record: Mapping[str, Any], num_malformed: int) -> str:
    """Return how an episode ended, as one of `ORDER` or its stop reason.

    Args:
        record: of the episode.
        num_malformed: turns with a call that could not be read.
    """
    success, stop = record.get("success"), record.get("stop_reason")
    if success is True:
        return SOLVED
    if record.get("scorer_error") is not None:
        return SCORER
    if isinstance(stop, str) and stop not in ENDED:
        return STOPS.get(stop, stop.replace("_", " ")[:40])
    if success is None:
        return UNKNOWN
    numbers = record.get("numbers")
    if isinstance(numbers, Mapping) and numbers.get("answered_early") == 1:
        return EARLY
    return MALFORMED if num_malformed else WRONG


def failure_tables(index: Mapping[str, Sequence[Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return one table per folder with episodes: categories by horizon, at the first and the last step with episodes.

    Args:
        index: columns of the list of episodes, with `run`, `step`, `horizon`, `category`.
        labels: of the folders.

    Returns:
        JSON-clean: `title`, `columns`, `rows`, `about`, as the tables of evaluations.
    """
    rows = list(zip(index["run"], index["step"], index["horizon"], index["category"], strict=True))
    found = []
    for run, label in enumerate(labels):
        steps = sorted({step for number, step, *_ in rows if number == run})
        if not steps:
            continue
        shown = dict.fromkeys((steps[0], steps[-1]))
        counts = {step: _by_horizon(rows, run, step) for step in shown}
        columns = [(horizon, step) for horizon in _horizons(counts) for step in shown]
        names = _ordered({name for by_horizon in counts.values() for each in by_horizon.values() for name in each})
        table = [[name, *(_share(counts[step].get(horizon), name) for horizon, step in columns)] for name in names]
        heads = [f"{_named(horizon)}{f', step {step}' if len(shown) > 1 else ''}" for horizon, step in columns]
        title = f"How episodes ended: {label}" if len(labels) > 1 else "How episodes ended"
        about = ABOUT.format(OF_STEPS if len(shown) > 1 else "")
        found.append({"title": title, "columns": ["ending", *heads], "rows": table, "about": about})
    return found


def _by_horizon(rows: Sequence[tuple[Any, ...]], run: int, step: Any) -> dict[Any, Counter[str]]:
    counts: dict[Any, Counter[str]] = {}
    for number, at, horizon, name in rows:
        if (number, at) == (run, step):
            counts.setdefault(horizon, Counter())[name] += 1
    return counts


def _horizons(counts: Mapping[Any, Mapping[Any, Any]]) -> list[Any]:
    found = {horizon for by_horizon in counts.values() for horizon in by_horizon}
    return sorted(found, key=lambda horizon: (not isinstance(horizon, int | float), horizon if horizon else 0))


def _ordered(names: set[str]) -> list[str]:
    return [name for name in ORDER if name in names] + sorted(names - {*ORDER})


def _share(counts: Counter[str] | None, name: str) -> str:
    if not counts:
        return "-"
    return f"{100 * counts[name] / counts.total():.0f} % ({counts[name]})"


def _named(horizon: Any) -> str:
    return "all" if horizon is None else f"horizon {horizon}"
