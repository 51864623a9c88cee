"""Whether the episodes of a task tell an update anything, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALL_RIGHT, ALL_WRONG, EQUAL, ALONE = "all_right", "all_wrong", "equal", "alone"
INFRASTRUCTURE, OVERLONG = "infrastructure", "overlong"
REASONS = (ALL_RIGHT, ALL_WRONG, EQUAL, ALONE, INFRASTRUCTURE, OVERLONG)
WORDS = {
    ALL_RIGHT: "all right",
    ALL_WRONG: "all wrong",
    EQUAL: "equal otherwise",
    ALONE: "with one episode",
    INFRASTRUCTURE: "lost to the infrastructure",
    OVERLONG: "over-long as a whole",
}


@dataclass(frozen=True)
class Group:
    """The episodes of one task that can be trained on."""

    horizon: int | None
    """Length of the task; None where no episode tells it."""
    values: Sequence[float]
    """What tells its episodes apart for the filter (`compared`), of each of those that it compares."""
    successes: Sequence[bool]
    """Whether each succeeded."""
    num_tokens: int = 0
    """Tokens that the model sampled for it."""
    num_masked: int = 0
    """Episodes that were masked as over-long, none of which succeeded; they are in none of the others."""

    def lacks_signal(self) -> str | None:
        """Return the reason why its episodes cannot be told apart; None if they can.

        Equality is exact: the smallest real difference is a signal.
        """
        if not self.values:
            return OVERLONG if self.num_masked else INFRASTRUCTURE
        if len(self.values) == 1:
            return ALONE
        if not _are_equal(self.values):
            return None
        if all(self.successes):
            return ALL_RIGHT
        return EQUAL if any(self.successes) else ALL_WRONG


def compared(rewards: Sequence[float], successes: Sequence[bool], by_success: bool, best_alone: bool) -> list[float]:
    """Return values that are equal if a group's episodes cannot be told apart, as rewards or as the filter compares.

    A group of equal rewards has no advantage, whatever the filter compares.

    Args:
        rewards: of each episode.
        successes: whether each succeeded.
        by_success: whether the filter compares success (`metric=acc`), rather than rewards alone.
        best_alone: whether the estimator compares the best two alone (`BEST_ALONE`).

    Returns:
        One value for each episode that is compared.
    """
    kinds = [list(rewards)]
    if by_success:
        kinds.append([float(each) for each in successes])
    if best_alone:
        kinds = [sorted(values)[-2:] for values in kinds]
    return next((values for values in kinds if _are_equal(values)), kinds[-1])


def _are_equal(values: Sequence[float]) -> bool:
    return all(value == values[0] for value in values)
