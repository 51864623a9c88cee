"""Every group estimator of verl, with groups that cannot be compared: advantages are 0, and counted."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("verl")

from verl.protocol import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.v1 import trainer_base
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from trm_agent.runs.estimators import GROUP_ESTIMATORS, OTHER_ESTIMATORS
from trm_agent.runs.screen import EQUAL_GROUPS
from trm_agent.verl_plugin.driver.advantages import (
    GROUPS_WITHOUT_BASELINE,
    equal_groups,
    equal_rewards,
    group_advantages,
    groups_without_baseline,
    with_group_advantages,
)
from trm_agent.verl_plugin.driver.trainer import trainer_class

VERLS = trainer_base.compute_advantage_for_multi_trajectories
CONFIG = AlgoConfig(gamma=1.0, lam=1.0)


def batch(groups: dict[str, list[float]], *, padding: int = 0, width: int = 3) -> tuple:
    """One row an episode: its reward at the last token, lengths from 1 to `width`."""
    keys = [f"{uid}_{session}_0" for uid, rewards in groups.items() for session in range(len(rewards))]
    rewards = [reward for group in groups.values() for reward in group]
    mask, paid = torch.zeros(len(keys) + padding, width), torch.zeros(len(keys) + padding, width)
    for row, reward in enumerate(rewards):
        length = 1 + row % width
        mask[row, :length] = 1
        paid[row, length - 1] = reward
    keys += [f"pad_{row}_0" for row in range(padding)]
    log_probs = torch.full_like(mask, -0.7)
    tensors = {
        "response_mask": mask.long(),
        "token_level_rewards": paid,
        "old_log_probs": log_probs,
        "sum_pi_squared": torch.full_like(mask, 0.5),
    }
    uids = np.array([key.split("_")[0] for key in keys], dtype=object)
    tags = [{"is_padding": key.startswith("pad")} for key in keys]
    return DataProto.from_dict(tensors=tensors, non_tensors={"uid": uids}), keys, tags


def advantages(name: str, groups: dict[str, list[float]], padding: int = 0) -> torch.Tensor:
    data, keys, tags = batch(groups, padding=padding)
    # with a config gdpo wants rewards by component; without one it has the one there is
    config = None if name == "gdpo" else CONFIG
    padded = [tag["is_padding"] for tag in tags]
    options = {"gamma": 1.0, "lam": 1.0, "num_repeat": 1, "norm_adv_by_std_in_grpo": True, "config": config}
    out = group_advantages(VERLS, data, keys, padded, name, **options)
    assert out.batch["advantages"].shape == out.batch["returns"].shape == data.batch["response_mask"].shape
    return out.batch["advantages"]


def alone(name: str, groups: dict[str, list[float]]) -> torch.Tensor:
    """What verl itself makes of the batch."""
    data, keys, _ = batch(groups)
    config = None if name == "gdpo" else CONFIG
    return VERLS(data, batch_keys=keys, adv_estimator=name, config=config).batch["advantages"]


def test_every_estimator_of_verl_is_listed_as_one_or_the_other():
    ours = {"trm"}
    assert set(ADV_ESTIMATOR_REGISTRY) - ours == GROUP_ESTIMATORS | OTHER_ESTIMATORS
    assert not GROUP_ESTIMATORS & OTHER_ESTIMATORS


@pytest.mark.parametrize("name", sorted(GROUP_ESTIMATORS))
def test_a_group_of_one_has_no_advantage_and_takes_no_part(name):
    groups = {"a": [1.0, 0.0, 0.25], "b": [1.0], "c": [0.0, 1.0], "d": [-3.0]}
    found = advantages(name, groups, padding=3)
    assert (found[[3, 6, 7, 8, 9]] == 0).all()
    data, keys, _ = batch(groups, padding=3)
    rows = [0, 1, 2, 4, 5]
    part = VERLS(
        data.select_idxs(np.array(rows)),
        batch_keys=[keys[row] for row in rows],
        adv_estimator=name,
        config=None if name == "gdpo" else CONFIG,
    )
    torch.testing.assert_close(found[rows], part.batch["advantages"])
    assert (found[:3] != 0).any()
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", sorted(GROUP_ESTIMATORS))
def test_a_batch_of_groups_of_one_is_zero(name):
    assert (advantages(name, {"a": [1.0], "b": [0.3]}, padding=2) == 0).all()
    assert (advantages(name, {"a": [1.0]}) == 0).all()


@pytest.mark.parametrize("name", sorted(GROUP_ESTIMATORS))
@pytest.mark.parametrize("reward", [0.97, 1 / 3, 0.1, 0.7, 1e-7, 1.0, 0.0])
@pytest.mark.parametrize("size", [2, 3, 12])
def test_rounding_of_equal_rewards_makes_no_advantage(name, reward, size):
    assert (advantages(name, {"a": [reward] * size}) == 0).all()
    mixed = advantages(name, {"a": [reward] * size, "b": [0.0, 1.0, 0.5]})
    assert (mixed[:size] == 0).all()
    assert (mixed[size:] != 0).any()


def test_verl_alone_makes_an_advantage_of_rounding_and_of_a_group_of_one():
    # if this fails, verl has mended it
    assert alone("grpo", {"a": [0.97] * 12}).abs().max() > 0.01
    assert alone("grpo", {"a": [1.0], "b": [0.0, 1.0]})[0, 0] == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ValueError, match="at least 2 samples"):
        alone("grpo_passk", {"a": [1.0]})


@pytest.mark.parametrize("name", sorted(GROUP_ESTIMATORS))
def test_groups_that_can_be_compared_are_left_to_verl(name):
    groups = {"a": [1.0, 0.0, 0.25], "b": [0.5, 0.75], "c": [0.0, 0.0, 1.0]}
    torch.testing.assert_close(advantages(name, groups), alone(name, groups).float(), check_dtype=False)


def test_a_real_difference_is_kept_however_small():
    # the next float32
    better = float(np.nextafter(np.float32(0.97), np.float32(1)))
    assert advantages("grpo", {"a": [0.97, better, 0.97, 0.97]})[1].max() > 0
    assert not equal_rewards(torch.tensor([[0.5, 0.0], [0.5, 1e-7]]))
    assert equal_rewards(torch.tensor([[0.5, 0.25], [0.25, 0.5]]))


def test_equal_sums_over_turns_are_equal_in_any_order():
    paid = torch.tensor([[0.1, 0.2, 0.4], [0.4, 0.1, 0.2], [0.1, 0.4, 0.2]])
    assert len(set(paid.sum(-1).tolist())) > 1
    assert equal_rewards(paid)


@pytest.mark.parametrize("name", ["reinforce_plus_plus"])
def test_estimators_without_groups_are_left_alone(name):
    groups = {"a": [1.0], "b": [0.25, 0.5]}
    torch.testing.assert_close(advantages(name, groups), alone(name, groups))
    assert groups_without_baseline(["a_0_0"], [{}], 1, name) == {}


def test_groups_without_a_baseline_are_counted():
    _, keys, tags = batch({"a": [1.0, 0.0], "b": [1.0], "c": [0.5] * 3}, padding=2)
    # five tasks were drawn: all episodes of two of them failed
    assert groups_without_baseline(keys, tags, 5, "rloo") == {GROUPS_WITHOUT_BASELINE: 3.0}
    # two rows of one episode are no group
    assert groups_without_baseline(["a_0_0", "a_0_1"], [{}, {}], 1, "grpo") == {GROUPS_WITHOUT_BASELINE: 1.0}


@pytest.mark.parametrize(
    ("groups", "num_tasks", "share"),
    [
        ({"a": [0.0, 0.0], "b": [0.0, 0.0]}, 2, 1.0),
        ({"a": [1.0, 1.0], "b": [0.0, 1.0]}, 2, 0.5),
        ({"a": [0.1, 0.2, 0.1], "b": [1.0, 0.0]}, 2, 0.0),
        # one has nothing to compare, all episodes of another failed
        ({"a": [1.0], "b": [1.0, 0.0]}, 4, 0.75),
    ],
)
def test_the_share_of_tasks_whose_episodes_do_not_differ(groups, num_tasks, share):
    data, keys, tags = batch(groups, padding=1)
    padded = [tag["is_padding"] for tag in tags]
    assert equal_groups(data, keys, padded, num_tasks, "grpo") == {EQUAL_GROUPS: share}
    assert equal_groups(data, keys, padded, num_tasks, "reinforce_plus_plus") == {}


class Queue:
    """verl's queue, as far as its trainer needs it here."""

    def __init__(self, rows: list[dict]) -> None:
        self.rows, self.written = rows, {}

    def kv_batch_get(self, keys, partition_id, select_fields):
        return list_of_dict_to_tensordict([{k: row[k] for k in select_fields if k in row} for row in self.rows])

    def kv_batch_put(self, keys, partition_id, fields):
        self.written = {name: [row.tolist() for row in fields[name].unbind()] for name in fields.keys()}  # noqa: SIM118


@pytest.mark.parametrize("estimator", ["grpo", "grpo_passk", "rloo"])
def test_verls_trainer_with_our_mixin_writes_them(monkeypatch, estimator):
    data, keys, tags = batch({"a": [0.97] * 3, "b": [1.0], "c": [1.0, 0.0]}, padding=1)
    rows = []
    for row in range(len(keys)):
        length = max(1, int(data.batch["response_mask"][row].sum()))
        rows.append(
            {
                "uid": data.non_tensor_batch["uid"][row],
                "response_mask": data.batch["response_mask"][row, :length],
                "rm_scores": data.batch["token_level_rewards"][row, :length],
            }
        )
    queue = Queue(rows)
    monkeypatch.setattr(trainer_base, "tq", queue)
    trainer = object.__new__(trainer_class("sync"))
    algorithm = AlgoConfig(adv_estimator=estimator)
    trainer.config = SimpleNamespace(
        data=SimpleNamespace(train_batch_size=4),
        algorithm=algorithm,
        actor_rollout_ref=SimpleNamespace(rollout=SimpleNamespace(n=3)),
    )
    trainer.parameter_sync_step = 1
    metrics: dict = {}
    trainer._compute_advantage(Meta(keys, tags), metrics)
    assert (metrics[GROUPS_WITHOUT_BASELINE], metrics[EQUAL_GROUPS]) == (2, 0.75)
    written = queue.written["advantages"]
    assert all(value == 0 for row in (*written[:4], written[6]) for value in row)
    assert written[4][0] > 0
    assert trainer_base.compute_advantage_for_multi_trajectories is VERLS


class Meta:
    partition_id = "train"

    def __init__(self, keys: list[str], tags: list[dict]) -> None:
        self.keys, self.tags = keys, tags

    def __len__(self) -> int:
        return len(self.keys)


def test_verls_function_comes_back_after_an_error():
    def fail() -> None:
        with with_group_advantages([], {}, 1):
            assert trainer_base.compute_advantage_for_multi_trajectories is not VERLS
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert trainer_base.compute_advantage_for_multi_trajectories is VERLS
