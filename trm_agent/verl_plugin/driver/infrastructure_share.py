"""The share of infrastructure failures: it warns, and ends a run that plays too little."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

logger = logging.getLogger("trm_agent")
MAX_ERROR_CHARACTERS = 500


class TooManyFailures(RuntimeError):
    """So many episodes could not be played, for so long, that the run ends."""


class InfrastructureShare:
    """Follows the share of episodes that could not be played.

    Args:
        warn_share: above it a step warns.
        max_share: above it, over `max_steps` steps in a row, the run is to end.
        max_steps: see `max_share`.
    """

    def __init__(self, warn_share: float, max_share: float, max_steps: int) -> None:
        self.warn_share, self.max_share, self.max_steps = warn_share, max_share, max_steps
        self.num_steps = 0
        self._first = ""

    def observe(self, step: int, num_played: int, failures: Sequence[Mapping[str, Any]]) -> float:
        """Take a step's counts.

        Args:
            step: its number.
            num_played: episodes of it that were played.
            failures: the tags of those that were not: `stop_reason` and `error`.

        Returns:
            The share of infrastructure failures, 0 where there were no episodes at all.
        """
        total = num_played + len(failures)
        share = len(failures) / total if total else 0.0
        if share > self.warn_share:
            what = "step %d: %.1f %% of the episodes could not be played, the first: %s"
            logger.warning(what, step, 100 * share, _told(failures))
        if share <= self.max_share:
            self.num_steps, self._first = 0, ""
            return share
        self.num_steps += 1
        self._first = self._first or f"step {step}, {_told(failures)}"
        return share

    def check(self) -> None:
        """End a run whose infrastructure is broken.

        Raises:
            TooManyFailures: with the first error.
        """
        if self.num_steps >= self.max_steps:
            raise TooManyFailures(
                f"more than {100 * self.max_share:g} % of the episodes of {self.num_steps} steps in a row could not be "
                f"played (run.max_infrastructure_share, run.max_infrastructure_steps); the first: {self._first}"
            )


def _told(failures: Sequence[Mapping[str, Any]]) -> str:
    """Return the first failure in one line, as much as a screen shows of an error."""
    first = failures[0]
    return " ".join(f"{first['stop_reason']}: {first.get('error')}".split())[:MAX_ERROR_CHARACTERS]
