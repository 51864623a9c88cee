"""Every turn has a seed of its own, which its place in the run decides, and the draws stay the distribution's."""

import asyncio
import copy
import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from omegaconf import open_dict

from tests.golden.presets import config_of
from trm_agent.verl_plugin.cpu.patches import drawn
from trm_agent.verl_plugin.rollout.agent_loop import ServerGenerator
from trm_agent.verl_plugin.rollout.play_settings import play_settings
from trm_agent.verl_plugin.rollout.turn_seeds import TurnSeeds, turn_seeds

SEEDS = TurnSeeds(run=0, stream=0, step=3, task=40, replica=5)
FIELDS = {"global_steps": 3, "index": 40, "session_id": 5}


def chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Pearson's statistic."""
    return float(((counts - expected) ** 2 / expected).sum())


@functools.cache
def first_draws(number: int) -> torch.Tensor:
    """The first draw of turns of several replicas, tasks and steps, shape (number, 1)."""
    draws = torch.empty(number, 1, dtype=torch.float64)
    for place in range(number):
        seeds = TurnSeeds(0, 0, step=place // 512, task=place // 32, replica=place % 8)
        draws[place].uniform_(generator=torch.Generator().manual_seed(seeds.at(place // 8 % 4)))
    return draws


def test_no_two_turns_of_a_run_share_a_seed_and_the_place_alone_decides_it():
    places = [
        (stream, step, task, replica, turn)
        for stream in range(2)
        for step in range(10)
        for task in range(16 * step, 16 * step + 16)
        for replica in range(8)
        for turn in range(2)
    ]
    found = {TurnSeeds(0, *place).at(turn) for *place, turn in places}
    assert len(found) == len(places)
    assert max(found) < 1 << 63
    assert TurnSeeds(0, 0, 3, 40, 5).at(2) == SEEDS.at(2)


@pytest.mark.parametrize("field", ["run", "stream", "step", "task", "replica"])
def test_each_part_of_the_place_changes_the_seed(field):
    assert replace(SEEDS, **{field: getattr(SEEDS, field) + 1}).at(2) != SEEDS.at(2)


def test_neighbours_whose_digits_run_together_differ():
    # 1, 23 and 12, 3: the same digits one after the other
    assert TurnSeeds(0, 0, 1, 23, 0).at(0) != TurnSeeds(0, 0, 12, 3, 0).at(0)


def test_an_episode_takes_its_seeds_from_the_run_and_verls_fields():
    assert turn_seeds(7, "train", FIELDS) == TurnSeeds(7, 0, 3, 40, 5)
    assert turn_seeds(0, "val", FIELDS) == TurnSeeds(0, 1, 3, 40, 5)


def test_the_seed_is_read_once_with_the_other_settings_of_a_run():
    config = copy.deepcopy(config_of("experiment=math_nano"))
    config.seed, config.run.deterministic = 7, True
    assert play_settings(config).seed == 7
    # a change behind its back is not looked for: fields of a configuration are slow to read
    config.seed = 8
    assert play_settings(config).seed == 7


@pytest.mark.parametrize("asked", [False, None, "absent"])
def test_without_determinism_the_engine_draws_from_its_own_generator(asked):
    config = copy.deepcopy(config_of("experiment=math_nano"))
    with open_dict(config):
        config.run.deterministic = asked
        if asked == "absent":
            del config.run.deterministic
    seed = play_settings(config).seed
    assert seed is None
    assert turn_seeds(seed, "train", FIELDS) is None


def test_a_turn_is_asked_for_with_its_seed_and_one_without_seeds_is_not():
    asked = []

    async def generate(request_id, prompt_ids, sampling_params):
        asked.append(sampling_params.get("seed"))
        return SimpleNamespace(token_ids=[1], log_probs=[-0.5], extra_fields={})

    for seeds in (SEEDS, None):
        generator = ServerGenerator(SimpleNamespace(generate=generate), {}, [1], seeds=seeds)
        for _ in range(2):
            asyncio.run(generator.generate([3], 4))
    assert asked == [SEEDS.at(0), SEEDS.at(1), None, None]


def test_the_draws_of_turns_are_uniform_and_neighbours_are_independent():
    draws = first_draws(8192).view(-1)
    # 32 cells of 256 each; 99 % of the values with 31 degrees of freedom are below 52.2
    assert chi_square(torch.histc(draws, 32, 0, 1), torch.full((32,), 256.0)) < 52.2
    # replicas of a task stand beside each other: 8 x 8 cells with 64 of their 4096 pairs; 63 degrees: 92.0
    pairs = (draws.view(-1, 2) * 8).long()
    counts = torch.bincount(8 * pairs[:, 0] + pairs[:, 1], minlength=64)
    assert chi_square(counts, torch.full((64,), 64.0)) < 92.0


def test_tokens_are_drawn_with_their_probabilities():
    probs = torch.tensor([0.0, 0.5, 0.01, 0.0, 0.09, 0.4])
    counts = torch.bincount(drawn(probs.expand(8192, -1), first_draws(8192)), minlength=6)
    assert counts[0] == counts[3] == 0
    # 3 degrees of freedom: 11.3
    assert chi_square(counts[probs > 0], 8192 * probs[probs > 0]) < 11.3


@pytest.mark.parametrize("probs", [[0.0, 1.0, 0.0], [0.0, 0.7, 0.3 + 1e-6, 0.0], [0.0, 1e-30, 0.0]])
@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-53])
def test_no_draw_takes_a_token_of_probability_0(probs, draw):
    (token,) = drawn(torch.tensor([probs]), torch.tensor([[draw]], dtype=torch.float64)).tolist()
    assert probs[token] > 0


def test_a_draw_takes_the_token_in_whose_part_it_falls():
    # sums 0.25, 0.75, 1: a draw at a border belongs to the part above it
    probs = torch.tensor([[0.25, 0.5, 0.25]]).expand(5, -1)
    draws = torch.tensor([[0.0], [0.2499], [0.25], [0.7499], [0.75]], dtype=torch.float64)
    assert drawn(probs, draws).tolist() == [0, 0, 1, 1, 2]
