"""How episodes ended, by horizon: the categories behind a success rate."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.evaluate.results import is_finite
from trm_agent.report.sources import Source

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
EXPLAINED = {
    EARLY: "Answered early: before the task's last step.",
    MALFORMED: "Wrong after a malformed call: a call of the episode could not be read.",
}


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


def failure_tables(index: Mapping[str, Sequence[Any]], sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return one table per folder with episodes: categories by horizon, before and after.

    Of a run, before and after are the first and the last step with recorded episodes; of an evaluation the first and
    the last checkpoint, with all its episodes.

    Args:
        index: columns of the list of episodes, with `run`, `step`, `horizon`, `category`.
        sources: the folders.

    Returns:
        JSON-clean: `kind` of the folder, `title`, `columns`, `rows`, `about`, as the tables of evaluations.
    """
    recorded = list(zip(index["run"], index["step"], index["horizon"], index["category"], strict=True))
    found = []
    for run, source in enumerate(sources):
        title = f"How episodes ended: {source.label}" if len(sources) > 1 else "How episodes ended"
        if source.kind == "evaluation":
            played = [_played(row) for row in source.results]
            table = _table(played, list(dict.fromkeys(at for at, *_ in played)), "")
            about = "all episodes played"
        else:
            seen = [(step, horizon, name) for number, step, horizon, name in recorded if number == run]
            table = _table(seen, sorted({step for step, *_ in seen}), "step ")
            about = "the recorded episodes of the first and the last recorded step"
        if table:
            names = [explained for name, explained in EXPLAINED.items() if any(row[0] == name for row in table["rows"])]
            whole = " ".join([f"Share and number of {about}.", *names])
            found.append({"kind": source.kind, "title": title, **table, "about": whole})
    return found


def _table(episodes: Sequence[tuple[Any, Any, str]], times: Sequence[Any], prefix: str) -> dict[str, Any]:
    """Count the categories by horizon at the first and the last of `times`; empty without episodes."""
    if not times:
        return {}
    shown = list(dict.fromkeys((times[0], times[-1])))
    counts = Counter(episodes)
    horizons = {horizon for at, horizon, _ in counts if at in shown}
    ordered = sorted(horizons, key=lambda each: (0, each, "") if isinstance(each, int | float) else (1, 0, str(each)))
    names = _ordered({name for at, _, name in counts if at in shown})
    columns = [(at, horizon) for horizon in ordered for at in shown]
    totals = {key: sum(counts[(*key, name)] for name in names) for key in columns}
    rows = [[name, *(_share(counts[(*key, name)], totals[key]) for key in columns)] for name in names]
    heads = [f"{_named(horizon)}{f', {prefix}{at}' if len(shown) > 1 else ''}" for at, horizon in columns]
    return {"columns": ["ending", *heads], "rows": rows}


def _played(row: Mapping[str, Any]) -> tuple[str, Any, str]:
    """Return the checkpoint, the horizon and the category of an evaluation's episode."""
    horizon, malformed = row.get("horizon"), row.get("malformed_turns")
    usable = horizon if is_finite(horizon) else None
    return str(row.get("checkpoint"))[:60], usable, category(row, malformed if isinstance(malformed, int) else 0)


def _ordered(names: set[str]) -> list[str]:
    return [name for name in ORDER if name in names] + sorted(names - {*ORDER})


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.0f} % ({count})" if total else "-"


def _named(horizon: Any) -> str:
    return "all" if horizon is None else f"horizon {horizon}"
