"""Bars of progress that move on a terminal, and are whole lines in a file."""

from __future__ import annotations

from typing import IO, Any


def bar_options(out: IO[str]) -> dict[str, Any]:
    """Return where and how often `tqdm` draws: a moving bar on a terminal, else a line each ten seconds.

    Args:
        out: the stream to draw on.
    """
    return {"file": out, "mininterval": 0.2} if out.isatty() else {"file": _Lines(out), "mininterval": 10.0}


class _Lines:
    """A stream that makes a line of each state of a bar, which begins with a carriage return."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def write(self, text: str) -> None:
        """Write the state, if it shows anything."""
        if shown := text.strip():
            self._out.write(f"{shown}\n")

    def flush(self) -> None:
        """Flush the stream."""
        self._out.flush()
