"""The order in which a batch's episodes reach the updates."""

import itertools
from collections.abc import Sequence

import pytest

from trm_agent.verl_plugin.driver.replay_buffer import update_order

# three tasks with two episodes each, in the order in which they ended; task b lost one to a failure
DRAWN = ["a", "b", "c"]
ENDED = [("c_0_0", 50), ("a_1_0", 60), ("c_1_0", 70), ("b_0_0", 300), ("a_0_0", 310)]


def order(episodes_per_update: int, ended: Sequence[tuple[str, int]] = ENDED) -> list[str]:
    keys, lengths = zip(*ended, strict=True)
    rows = update_order(keys, [{"seq_len": length} for length in lengths], DRAWN, episodes_per_update)
    return [keys[row] for row in rows]


def test_an_update_takes_the_tasks_as_drawn_and_not_as_ended() -> None:
    assert order(1) == ["a_0_0", "a_1_0", "b_0_0", "c_0_0", "c_1_0"]


def test_within_an_update_episodes_are_sorted_by_length() -> None:
    assert order(4) == ["c_0_0", "a_1_0", "b_0_0", "a_0_0", "c_1_0"]
    assert order(6) == [key for key, _ in ENDED]


@pytest.mark.parametrize("episodes_per_update", [2, 6])
def test_the_order_in_which_episodes_ended_changes_nothing(episodes_per_update: int) -> None:
    # two of one length, which only their place can put in order
    ended = [*ENDED[:-1], ("a_0_0", 60)]
    assert len({tuple(order(episodes_per_update, each)) for each in itertools.permutations(ended)}) == 1
