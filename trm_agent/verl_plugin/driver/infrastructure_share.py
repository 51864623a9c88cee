"""Watch the share of infrastructure failures: warn, and end a run that plays too few episodes."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

logger = logging.getLogger("trm_agent")
MAX_ERROR_CHARACTERS = 500


class TooManyFailures(RuntimeError):
    """The run ends because too many episodes could not be played for too long."""


class InfrastructureShare:
    """The share of episodes that could not be played, followed over the steps.

    Args:
        warn_share: the share above which a step warns.
        max_share: the share above which, for `max_steps` steps in a row, the run ends.
        max_steps: see `max_share`.
    """

    def __init__(self, warn_share: float, max_share: float, max_steps: int) -> None:
        self.warn_share, self.max_share, self.max_steps = warn_share, max_share, max_steps
        self.num_steps = 0
        self._first = ""

    def observe(self, step: int, num_played: int, failures: Sequence[Mapping[str, Any]]) -> float:
        """Add a step's counts.

        Args:
            step: its number.
            num_played: number of episodes that were played.
            failures: the tags of the other episodes: `stop_reason` and `error`.

        Returns:
            The share of infrastructure failures; 0 in a step without episodes.
        """
        total = num_played + len(failures)
        share = len(failures) / total if total else 0.0
        if share > self.warn_share:
            what = "step %d: %.1f %% of the episodes could not be played, the first: %s"
            logger.warning(what, step, 100 * share, first_failure(failures))
        if share <= self.max_share:
            self.num_steps, self._first = 0, ""
            return share
        self.num_steps += 1
        self._first = self._first or f"step {step}, {first_failure(failures)}"
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


def first_failure(failures: Sequence[Mapping[str, Any]]) -> str:
    """Return the first failure in one line, cut to fit a screen."""
    first = failures[0]
    return " ".join(f"{first['stop_reason']}: {first.get('error')}".split())[:MAX_ERROR_CHARACTERS]
