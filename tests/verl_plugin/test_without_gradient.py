"""Rows whose advantages are all 0 come first, and their micro-batches have no backward pass."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("verl")

from tensordict import TensorDict
from verl.workers.utils.losses import ppo_loss

from trm_agent.verl_plugin.actor import without_gradient
from trm_agent.verl_plugin.driver.actor_update import DRIVERS_FIELDS, _hand_over, zero_first

from .loss_support import actor_config


class Engine(without_gradient.WithoutGradientMixin):
    """One micro-batch of an update."""

    def __init__(self, is_last: bool) -> None:
        self._is_last = is_last


def micro_batch(*advantages: list[float]) -> TensorDict:
    rows = [torch.tensor(row) for row in advantages]
    nested = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    return TensorDict({"advantages": nested}, batch_size=[len(rows)])


def loss(**changes):
    config = actor_config()
    for name, value in changes.items():
        object.__setattr__(config, name, value)
    return partial(ppo_loss, config=config)


ZERO = ([0.0, 0.0], [0.0])


@pytest.mark.parametrize(
    ("advantages", "is_last", "function", "ranks", "expected"),
    [
        (ZERO, False, loss(), 1, True),
        ([*ZERO, [0.0, 1e-30]], False, loss(), 1, False),
        (ZERO, True, loss(), 1, False),
        (ZERO, False, loss(), 2, False),
        (ZERO, False, loss(entropy_coeff=0.01), 1, False),
        (ZERO, False, loss(use_kl_loss=True), 1, False),
        (ZERO, False, lambda **_: None, 1, False),
        (ZERO, False, partial(lambda **_: None, config=actor_config()), 1, False),
    ],
    ids=["zero", "one is not", "last", "two ranks", "entropy", "KL", "another loss", "a partial of another"],
)
def test_only_a_micro_batch_that_cannot_have_a_gradient_skips_it(
    advantages, is_last, function, ranks, expected, monkeypatch
):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: ranks)
    monkeypatch.setattr(without_gradient, "get_device_name", lambda: "cpu")
    assert Engine(is_last).is_without_gradient(micro_batch(*advantages), function) is expected


@pytest.mark.parametrize(("changes", "device"), [({"policy_loss": {"loss_mode": "clip_cov"}}, "cpu"), ({}, "cuda")])
def test_another_policy_loss_and_another_device_keep_the_backward_pass(changes, device, monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 1)
    monkeypatch.setattr(without_gradient, "get_device_name", lambda: device)
    assert not Engine(False).is_without_gradient(micro_batch(*ZERO), loss(**changes))


def test_rows_without_a_gradient_come_first_in_their_update_and_else_keep_their_order():
    # two updates of three rows: the second's zero is row 5
    assert zero_first([False, True, False, False, False, True], 3) == [1, 0, 2, 5, 3, 4]
    assert zero_first([False] * 4, 2) == [0, 1, 2, 3]


class Batch:
    def __init__(self) -> None:
        self.keys, self.order = ["a", "b", "c"], None
        self.fields = [*sorted(DRIVERS_FIELDS), "input_ids", "advantages", "of another plugin"]

    def reorder(self, order: list[int]) -> None:
        self.order = order


def trainer(devices: int) -> SimpleNamespace:
    rollout, actor = SimpleNamespace(n=3), SimpleNamespace(ppo_mini_batch_size=1)
    return SimpleNamespace(
        zero_advantages={"c"},
        config=SimpleNamespace(
            trainer=SimpleNamespace(nnodes=1, n_gpus_per_node=devices),
            actor_rollout_ref=SimpleNamespace(actor=actor, rollout=rollout),
        ),
    )


def test_the_actor_gets_no_fields_of_the_driver_and_zero_rows_first():
    batch = Batch()
    _hand_over(trainer(1), batch)
    assert batch.fields == ["input_ids", "advantages", "of another plugin"]
    assert batch.order == [2, 0, 1]


def test_the_order_of_several_ranks_is_verls():
    batch = Batch()
    _hand_over(trainer(2), batch)
    assert batch.order is None
