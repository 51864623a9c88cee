"""The one form in which a value is refused, and the closest known name for an unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NoReturn

MAX_VALUE_CHARS = 300


def refuse(field: str, value: object, allowed: str, remedy: str, *, because: str = "") -> NoReturn:
    """Refuse the value of a field.

    Args:
        field: its path as the user sets it, such as `env.limits.max_turns`.
        value: the value that was given.
        allowed: the allowed values in words.
        remedy: what to do next, an imperative clause.
        because: further words on the value, such as `above adaptive_cap=0.5`.

    Raises:
        ValueError: always, as `FIELD: got VALUE, BECAUSE; allowed: ALLOWED; REMEDY`.
    """
    raise ValueError(f"{field}: got {_shown(value)}{', ' if because else ''}{because}; allowed: {allowed}; {remedy}")


def refuse_name(field: str, known: Iterable[str], others: Iterable[str] = ()) -> NoReturn:
    """Refuse a field that does not exist.

    Args:
        field: its path as the user wrote it.
        known: the names of the fields that there are in its section.
        others: paths of further fields, which may be meant and are not listed.

    Raises:
        ValueError: always; it names the closest field.
    """
    known = sorted(set(known))
    question = nearest(re.split(r"[. ]", field)[-1], known) or nearest(field, others)
    raise ValueError(f"{field}: no such field; {question}{' ' if question else ''}Known: {_listing(known)}")


def closest(name: str, options: Iterable[str]) -> str:
    """Return the clause that ends an "unknown name" message.

    Args:
        name: the user's text.
        options: the names that are known.

    Returns:
        ``"did you mean 'trm'? Known: 'ppo_clip', 'trm'"``; without the question where nothing is close.
    """
    known = sorted(set(options))
    question = nearest(name, known)
    return f"{question}{' ' if question else ''}Known: {_listing(known)}"


def nearest(name: str, options: Iterable[str], otherwise: str = "") -> str:
    """Return ``"did you mean 'trm'?"``, or `otherwise` where no option is close."""
    by_lower = {option.lower(): option for option in sorted(set(options))}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=2)
    return f"did you mean {' or '.join(repr(by_lower[match]) for match in matches)}?" if matches else otherwise


def _listing(known: list[str]) -> str:
    return ", ".join(repr(option) for option in known) or "none"


def _shown(value: object) -> str:
    # as a configuration and a command line write it
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}..."
