"""Progress of an evaluation: a bar on a terminal, a line now and then in a file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

from trm_agent.evaluate.results import is_failure
from trm_agent.models.bars import bar_options


class Progress:
    """The bar of one checkpoint, with its success so far and the time that is left.

    Args:
        label: the checkpoint's label.
        done: results that are there already.
        total: number of episodes.
        out: where to draw; standard error by default.
    """

    def __init__(self, label: str, done: Sequence[Mapping[str, Any]], total: int, out: IO[str] | None = None) -> None:
        from tqdm import tqdm

        out = out or sys.stderr
        self.num_played = self.num_succeeded = self.num_failed = 0
        self._bar = tqdm(
            desc=label,
            total=total,
            initial=len(done),
            unit="episode",
            **bar_options(out),
            # the rate over all episodes, since short ones come in bursts
            smoothing=0.05,
        )
        for row in done:
            self._count(row)
        self._show()

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one more result."""
        self._count(row)
        self._show()
        self._bar.update()

    def close(self) -> None:
        """Draw the last state."""
        self._bar.close()

    def _count(self, row: Mapping[str, Any]) -> None:
        if is_failure(row):
            self.num_failed += 1
        else:
            self.num_played += 1
            self.num_succeeded += bool(row["success"])

    def _show(self) -> None:
        success = f"success {100 * self.num_succeeded / self.num_played:.1f} %" if self.num_played else "no result yet"
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        self._bar.set_postfix_str(success + failed, refresh=False)
