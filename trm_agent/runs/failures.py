"""How an episode ended: the categories behind a success rate, and their shares in a step's metrics."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SOLVED, UNKNOWN = "solved", "not known"
# stop reason -> category; one that is absent here is its own category
STOPS = {
    "max_tokens": "ran out of tokens",
    "max_turns": "ran out of turns",
    "max_tool_calls": "ran out of tool calls",
    "max_malformed_turns": "ended at a malformed call",
    "max_tool_time": "ran out of tool time",
}
ENDED = ("terminated", "truncated")
SCORER, EARLY, MALFORMED, WRONG = "scorer error", "answered early", "wrong after a malformed call", "wrong answer"
CALL, OTHER = "a call was wrong", "another answer than the last result"
LUCKY = "solved despite a mistake"
A_MALFORMED_CALL = "a malformed call"
MISTAKE, MISTAKE_TURN = "first_mistake/", "first_mistake_turn"
"""Beginning of the names of an environment's numbers of which one is 1, the first mistake of the episode; its turn.

A name `first_mistake/FAMILY/NAME` says that mistakes of several names are of one kind.
"""
CLEAN, AFTER_MALFORMED = "env/ending", "env/ending_after_malformed"
"""Beginnings of the names of the shares of a step's episodes without and with a malformed call."""
_MISTAKE_SLUG = "mistake/"
ORDER = (SOLVED, WRONG, CALL, OTHER, MALFORMED, A_MALFORMED_CALL, EARLY, *STOPS.values(), SCORER)
EXPLAINED = {
    SOLVED: "The environment scored the answer as right.",
    LUCKY: "A call was wrong, and the answer right all the same; counted as a success alone.",
    WRONG: "The answer was wrong.",
    CALL: "A call was wrong: its numbers or its operation, so that the last result was not the right one.",
    OTHER: "The last result was right, the answer another.",
    EARLY: "The answer came before all steps of the task were done.",
    MALFORMED: "The answer was wrong, and a call of the episode could not be read.",
    STOPS["max_tokens"]: "The episode reached its limit of tokens without an answer.",
    STOPS["max_turns"]: "The episode reached its limit of turns without an answer.",
    STOPS["max_tool_calls"]: "The episode reached its limit of tool calls without an answer.",
    STOPS["max_malformed_turns"]: "The episode reached its limit of turns with a call that could not be read.",
    STOPS["max_tool_time"]: "The episode's tools used up their time without an answer.",
    SCORER: "The environment raised on the model's text.",
    A_MALFORMED_CALL: (
        "The environment could not read a call of the failed episode, whatever other mistake it made; one wrong "
        "character is enough, such as a miscopied digit. Of all other failures every call could be read."
    ),
    "a wrong number copied": "The model wrote another number than the one that the message before holds.",
    f"{WRONG}: not the last result": (
        "Its first mistake was in a call, whose first number was not the last result (the number that the calculator "
        "gave last, at first the start value)."
    ),
    f"{WRONG}: not the operand asked for": (
        "Its first mistake was in a call, whose second number was not that of the instruction."
    ),
    f"{WRONG}: not the operation asked for": (
        "Its first mistake was in a call, which had the right numbers and another operation than the instruction."
    ),
    f"{WRONG}: a call of another form": "Its first mistake was a call that was not of one operation on two numbers.",
    f"{WRONG}: the answer not the last result": (
        "Its first mistake was the answer, after calls that were all right: it was not the last result."
    ),
}
"""Meaning of the categories, in one sentence each; of mistakes, those of `trm/ChainMath-v0`."""


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
            return name.removeprefix(MISTAKE).rpartition("/")[2].replace("_", " ")[:40]
    return None


def mistake_family(numbers: Mapping[str, Any]) -> str:
    """Return the family of the first mistake, in words; "" without one."""
    names = (name for name, value in numbers.items() if isinstance(name, str) and value == 1)
    mistakes = [name.removeprefix(MISTAKE) for name in names if name.startswith(MISTAKE)]
    return mistakes[0].rpartition("/")[0].replace("_", " ")[:40] if mistakes else ""


def failing_turn(record: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]) -> tuple[int, str] | None:
    """Return the turn, from 0 on, in which an episode first went wrong, and how in words; None where nothing tells.

    That of the first mistake that the environment names or of the first malformed call, the earlier one; of a failure
    by a limit with neither, the last turn. After semicolons, how a failure went on.

    Args:
        record: of the episode.
        turns: its turns, with `malformed`.
    """
    failed, stop = record.get("success") is not True, record.get("stop_reason")
    given = record.get("numbers")
    numbers: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    told, found = numbers.get(MISTAKE_TURN), []
    if isinstance(told, int | float) and 1 <= told <= len(turns):
        mistake = first_mistake(numbers)
        named = "the first mistake" if mistake is None else f"first mistake, {mistake}"
        found.append((int(told) - 1, named if failed else "a mistake"))
    found += [(place, A_MALFORMED_CALL) for place, turn in enumerate(turns) if turn.get("malformed")][:1]
    limit = STOPS.get(stop) if failed and isinstance(stop, str) else None
    if not found:
        return (len(turns) - 1, limit) if limit and turns else None
    (place, first), *later = sorted(found, key=lambda each: each[0])
    if not failed:
        return place, f"{first}, without harm"
    after = [f"later {what}" for where, what in later if where > place]
    after += [f"the episode then {limit}"] if limit and not limit.endswith(first) else []
    return place, "; ".join([first, *after])


def ending_shares(episodes: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the share of each ending among all episodes of a step; the shares add up to 1.

    Args:
        episodes: records with `horizon`, `malformed_turns` and the fields that `category` reads.

    Returns:
        `env/ending/h<horizon>/<ending>` of the episodes without a malformed call,
        `env/ending_after_malformed/h<horizon>/<ending>` of the others; an ending that does not occur is absent.
    """
    names = [ending_name(record) for record in episodes]
    return {name: count / len(names) for name, count in sorted(Counter(names).items())}


def ending_slug(ending: str, family: str = "") -> str:
    """Return a category as a part of a metric's name.

    Args:
        ending: such as `ran out of tokens`, which gives `ran_out_of_tokens`.
        family: of a mistake, "" without one: `wrong answer: not the operand` of the family `a wrong number` gives
            `mistake/a_wrong_number/not_the_operand`.
    """
    kind, _, mistake = ending.partition(": ")
    parts = (family, mistake) if mistake else ("", kind)
    slug = "/".join(re.sub(r"[^0-9a-z]+", "_", part.lower()) for part in parts if part)
    return f"{_MISTAKE_SLUG}{slug}" if mistake else slug


def ending_label(slug: str) -> str:
    """Return the category of such a part of a name, without its family."""
    words = slug.removeprefix(_MISTAKE_SLUG).rpartition("/")[2].replace("_", " ")[:60]
    return f"{WRONG}: {words}" if slug.startswith(_MISTAKE_SLUG) else words


def ending_family(slug: str) -> str:
    """Return the family of such a part of a name, in words; "" without one."""
    return slug.removeprefix(_MISTAKE_SLUG).rpartition("/")[0].replace("_", " ") if _MISTAKE_SLUG in slug else ""


def ending_name(record: Mapping[str, Any]) -> str:
    """Return the ending of an episode as the name of its share, `ending_shares`.

    Args:
        record: with `horizon`, `malformed_turns` and the fields that `category` reads.
    """
    malformed, numbers = record.get("malformed_turns") or 0, record.get("numbers") or {}
    ending = category(record, malformed)
    if ending == SOLVED and first_mistake(numbers) is not None:
        ending = LUCKY
    prefix = AFTER_MALFORMED if malformed else CLEAN
    return f"{prefix}/h{record.get('horizon')}/{ending_slug(ending, mistake_family(numbers))}"


def _is_below_one(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value < 1
