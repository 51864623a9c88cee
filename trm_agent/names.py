"""The closest known name, for error messages about unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: str, options: Iterable[str]) -> str:
    """Return the clause that ends an "unknown name" message.

    Args:
        name: the user's text.
        options: the names that are known.

    Returns:
        ``"did you mean 'trm'? Known: 'ppo_clip', 'trm'"``; without the question where nothing is close.
    """
    known = sorted(set(options))
    by_lower = {option.lower(): option for option in known}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=2)
    question = f"did you mean {' or '.join(repr(by_lower[match]) for match in matches)}? " if matches else ""
    listing = ", ".join(repr(option) for option in known) or "none"
    return f"{question}Known: {listing}"
