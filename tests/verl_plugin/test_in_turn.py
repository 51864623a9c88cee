"""Few prompts for many workers reach each of them."""

from collections import Counter

import pytest

pytest.importorskip("verl")

from trm_agent.verl_plugin.rollout.beside_server import BesideServers
from trm_agent.verl_plugin.rollout.episodes_worker import WorkersOfEpisodes
from trm_agent.verl_plugin.rollout.in_turn import InTurn


class Manager:
    """verl's way: the first prompts go to the first workers."""

    def __init__(self, workers: str) -> None:
        self.agent_loop_workers, self.got = list(workers), Counter()

    def generate_sequences(self, prompts: list) -> None:
        size = -(-len(prompts) // len(self.agent_loop_workers))
        for worker in self.agent_loop_workers[: -(-len(prompts) // size)]:
            self.got[worker] += 1


class Ours(InTurn, Manager):
    """A manager with the mixin."""


def test_both_managers_have_it():
    assert issubclass(BesideServers, InTurn)
    assert issubclass(WorkersOfEpisodes, InTurn)


@pytest.mark.parametrize("few", [1, 2, 3])
def test_few_prompts_go_to_every_worker_in_turn(few):
    ours = Ours("abcd")
    for _ in range(4):
        ours.generate_sequences([0] * few)
    assert ours.got == dict.fromkeys("abcd", few)


def test_a_batch_for_all_workers_changes_nothing():
    ours = Ours("ab")
    ours.generate_sequences([0] * 7)
    assert ours.agent_loop_workers == ["a", "b"]
