"""How an episode ended: the categories behind a success rate, and their shares in a step's metrics."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
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
CALL, OTHER = "a call was wrong", "another answer than the last result"
LUCKY = "solved despite a mistake"
MISTAKE, MISTAKE_TURN = "first_mistake/", "first_mistake_turn"
"""Beginning of the names of an environment's numbers of which one is 1, the first mistake of the episode; its turn."""
CLEAN, AFTER_MALFORMED = "env/ending", "env/ending_after_malformed"
"""Beginnings of the names of the shares of a step's episodes without and with a malformed call."""
ORDER = (SOLVED, WRONG, CALL, OTHER, MALFORMED, EARLY, *STOPS.values(), SCORER)
EXPLAINED = {
    CALL: "A call was wrong: its numbers or its operation, so that the last result was not the right one.",
    OTHER: "Another answer than the last result: the last result was right.",
    EARLY: "Answered early: before all steps of the task were done.",
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
    told: Mapping[str, Any] = numbers if isinstance(numbers, Mapping) else {}
    if told.get("answered_early") == 1 or _is_below_one(told.get("steps_done_frac")):
        return EARLY
    if (mistake := first_mistake(told)) is not None:
        return f"{WRONG}: {mistake}"
    if told.get("last_result_right") in (0, 1):
        return OTHER if told["last_result_right"] else CALL
    return MALFORMED if num_malformed else WRONG


def first_mistake(numbers: Mapping[str, Any]) -> str | None:
    """Return the first mistake that an environment's numbers name, in words; None if they name none."""
    for name, value in numbers.items():
        if isinstance(name, str) and name.startswith(MISTAKE) and value == 1:
            return name.removeprefix(MISTAKE).replace("_", " ")[:40]
    return None


def ending_shares(episodes: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the share of each ending among all episodes of a step; the shares add up to 1.

    Args:
        episodes: records with `horizon`, `malformed_turns` and the fields that `category` reads.

    Returns:
        `env/ending/h<horizon>/<ending>` of the episodes without a malformed call,
        `env/ending_after_malformed/h<horizon>/<ending>` of the others; an ending that does not occur is absent.
    """
    names = [_ending_name(record) for record in episodes]
    return {name: count / len(names) for name, count in sorted(Counter(names).items())}


def _ending_name(record: Mapping[str, Any]) -> str:
    malformed, numbers = record.get("malformed_turns") or 0, record.get("numbers") or {}
    ending = category(record, malformed)
    if ending == SOLVED and first_mistake(numbers) is not None:
        ending = LUCKY
    kind, _, mistake = ending.partition(": ")
    slug = re.sub(r"[^0-9a-z]+", "_", (mistake or kind).lower())
    place = f"mistake/{slug}" if mistake else slug
    return f"{AFTER_MALFORMED if malformed else CLEAN}/h{record.get('horizon')}/{place}"


def _is_below_one(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value < 1
