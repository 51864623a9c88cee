"""What the trainer hands on for each group estimator, against float64 formulas written from the papers' definitions."""

import random
from collections import defaultdict

import numpy as np
import pytest
import torch

pytest.importorskip("verl")

from verl.protocol import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.v1 import trainer_base

from trm_agent.runs.estimators import GROUP_ESTIMATORS
from trm_agent.verl_plugin.driver.advantages import group_advantages

VERLS = trainer_base.compute_advantage_for_multi_trajectories
SIZES = (0, 1, 2, 3, 12)
EQUAL = (0.97, 1 / 3, 0.1, 7.3, -0.3, 1e6 + 0.1)
WHITENED = ("gdpo", "reinforce_plus_plus_baseline")


def draw(rng: random.Random, width: int) -> list[dict]:
    """Episodes of a few groups of each size, their rewards all alike or not, and padding rows, shuffled."""
    rows = []
    for group in range(rng.randint(1, 5)):
        same, is_equal = rng.choice(EQUAL), rng.random() < 0.4
        for session in range(rng.choice(SIZES)):
            reward = same if is_equal else rng.choice([0.0, 1.0, round(rng.uniform(-1, 2), 3)])
            rows.append({"uid": f"u{group}", "session": session, "reward": reward, "length": rng.randint(1, width)})
    for pad in range(rng.choice([0, 2])):
        rows.append({"uid": "u0", "session": f"pad{pad}", "reward": 0.0, "length": 0})
    rng.shuffle(rows)
    return rows


def computed(name: str, rows: list[dict], log_probs: torch.Tensor, squares: torch.Tensor) -> np.ndarray:
    mask, paid = torch.zeros(log_probs.shape), torch.zeros(log_probs.shape)
    for number, row in enumerate(rows):
        mask[number, : row["length"]] = 1
        if row["length"]:
            paid[number, row["length"] - 1] = row["reward"]
    tensors = {
        "response_mask": mask.long(),
        "token_level_rewards": paid,
        "old_log_probs": log_probs,
        "sum_pi_squared": squares,
    }
    uids = np.array([row["uid"] for row in rows], dtype=object)
    data = DataProto.from_dict(tensors=tensors, non_tensors={"uid": uids})
    keys = [f"{row['uid']}_{row['session']}_0" for row in rows]
    config = None if name == "gdpo" else AlgoConfig(gamma=1.0, lam=1.0)
    out = group_advantages(VERLS, data, keys, [not row["length"] for row in rows], name, config=config)
    assert torch.equal(out.batch["token_level_rewards"], paid)
    return out.batch["advantages"].double().numpy()


def score(name: str, index: int, rewards: np.ndarray, lengths: np.ndarray, scale: float) -> float:
    """The advantage of an episode in its group, before what is taken over the batch."""
    mean, std, count = rewards.mean(), rewards.std(ddof=1), len(rewards)
    reward, (second, best) = rewards[index], np.sort(rewards)[-2:]
    others = (rewards.sum() - reward) / (count - 1)
    is_best = index == int(np.argmax(rewards))
    return {
        "grpo": (reward - mean) / (std + 1e-6),
        "grpo_passk": (best - second) / (std + 1e-6) if is_best else 0.0,
        "rloo": reward - others,
        "opo": reward - (rewards * lengths).sum() / lengths.sum(),
        "gpg": scale * (reward - mean),
        "reinforce_plus_plus_baseline": reward - mean,
    }[{"grpo_vectorized": "grpo", "gdpo": "grpo", "rloo_vectorized": "rloo"}.get(name, name)]


def token_scores(index: int, rewards: np.ndarray, lengths: np.ndarray, energies: list[np.ndarray]) -> list[float]:
    """The optimal token baseline: at each place the mean of those that get there, by the energy of their paths."""
    found = []
    for place in range(lengths[index]):
        there = [other for other in range(len(rewards)) if lengths[other] > place]
        weights = np.array([energies[other][place] for other in there])
        baseline = float((weights * rewards[there]).sum() / (weights.sum() + 1e-8)) if len(there) > 1 else 0.0
        found.append(rewards[index] - baseline)
    return found


def expected(name: str, rows: list[dict], log_probs: torch.Tensor, squares: torch.Tensor) -> np.ndarray:
    groups = defaultdict(list)
    for number, row in enumerate(rows):
        if row["length"]:
            groups[row["uid"]].append(number)
    compared = [group for group in groups.values() if len(group) > 1]
    paid = np.array([np.float32(row["reward"]) for row in rows], dtype=np.float64)
    num_paid = sum(np.count_nonzero(paid[group]) for group in compared)
    scale = sum(map(len, compared)) / max(1, num_paid)
    energy = (1 - 2 * log_probs.double().exp() + squares.double()).cumsum(-1).numpy()
    found = np.zeros(log_probs.shape)
    for group in compared:
        rewards, lengths = paid[group], np.array([rows[number]["length"] for number in group])
        for index, number in enumerate(group):
            if "token_baseline" in name:
                values = token_scores(index, rewards, lengths, list(energy[group]))
            else:
                values = score(name, index, rewards, lengths, scale)
            found[number, : lengths[index]] = 0.0 if len(set(rewards)) == 1 else values
    if name in WHITENED and compared:
        places = [(number, place) for group in compared for number in group for place in range(rows[number]["length"])]
        values = np.array([found[place] for place in places])
        for place in places:
            found[place] = (found[place] - values.mean()) / np.sqrt(values.var(ddof=1) + 1e-8)
    for group in compared:
        if len(set(paid[group])) == 1:
            found[group] = 0.0
    return found


@pytest.mark.parametrize("name", sorted(GROUP_ESTIMATORS))
def test_groups_get_what_the_estimator_defines_and_rounding_moves_nothing(name):
    rng, generator = random.Random(name), torch.Generator().manual_seed(0)
    for _ in range(40):
        width = rng.randint(1, 6)
        rows = draw(rng, width)
        if not rows:
            continue
        log_probs = -3 * torch.rand(len(rows), width, generator=generator) - 0.05
        squares = torch.rand(len(rows), width, generator=generator)
        found = computed(name, rows, log_probs, squares)
        np.testing.assert_allclose(found, expected(name, rows, log_probs, squares), rtol=2e-4, atol=2e-4)
