"""How an episode ended: the categories behind a success rate."""

from collections.abc import Mapping
from typing import Any

from trm_agent.evaluate.results import is_finite

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
MISTAKE = "first_mistake/"
"""Beginning of the names of an environment's numbers of which one is 1: the first mistake of the episode."""
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
    if told.get("answered_early") == 1 or (is_finite(told.get("steps_done_frac")) and told["steps_done_frac"] < 1):
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
