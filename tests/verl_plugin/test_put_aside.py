"""The policy that a step began with, put aside on a CPU: an update of it must not change what is brought back."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("verl")

import verl.utils.fsdp_utils as fsdp_utils
from verl.experimental.separation.engine_workers import DetachActorWorker

from tests.verl_plugin.test_engine import engine
from tests.verl_plugin.test_patches import lines, run
from trm_agent.verl_plugin.cpu import patches, put_aside

OF_A_TRAINER = """
import verl
from trm_agent.verl_plugin import extension
from trm_agent.verl_plugin.cpu import put_aside
from verl.utils import fsdp_utils
save = fsdp_utils.fsdp2_sharded_save_to_cpu
put_aside.apply_trainer_patches()
assert fsdp_utils.fsdp2_sharded_save_to_cpu is save
print("patched:", put_aside.is_patched(save), put_aside.is_patched(save.__wrapped__))
"""


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    # so that verl's own is back afterwards
    monkeypatch.setattr(fsdp_utils, "fsdp2_sharded_save_to_cpu", fsdp_utils.fsdp2_sharded_save_to_cpu)
    put_aside.apply_trainer_patches()


def worker() -> Any:
    """verl's worker of the trainer in `separate_async`, as far as it keeps policies."""
    made = DetachActorWorker.__new__(DetachActorWorker)
    made.config = SimpleNamespace(actor=SimpleNamespace(strategy="fsdp2"))
    made.actor, made._strategy_handlers = SimpleNamespace(engine=engine()), None
    return made


def parameters(of: Any) -> torch.Tensor:
    return torch.cat([each.full_tensor().flatten() for each in of.actor.engine.module.parameters()]).detach().clone()


def step(of: Any) -> None:
    """An update: verl's own optimizer, with a gradient of 1 everywhere."""
    for each in of.actor.engine.module.parameters():
        each.grad = torch.ones_like(each)
    of.actor.engine.optimizer.step()


def second_update(of: Any) -> list[torch.Tensor]:
    """What verl's trainer asks for: the policy before the first update, after it, brought back, and back again."""
    begun = parameters(of)
    of.save_model_to_cpu(0)
    step(of)
    now = parameters(of)
    of.save_model_to_cpu(1)
    of.restore_model_from_cpu(0)
    restored = parameters(of)
    of.restore_model_from_cpu(1)
    return [begun, now, restored, parameters(of)]


@pytest.mark.usefixtures("one_rank", "patched")
def test_the_policy_of_a_steps_beginning_comes_back_after_an_update_and_goes_again():
    begun, now, restored, after = second_update(worker())
    assert (begun - now).abs().min() > 1e-4
    assert torch.equal(restored, begun)
    assert torch.equal(after, now)


@pytest.mark.usefixtures("one_rank")
def test_verls_own_brings_back_the_present_policy_so_that_the_patch_is_needed():
    begun, now, restored, _ = second_update(worker())
    assert not torch.equal(begun, now)
    assert torch.equal(restored, now)


def test_another_version_of_verl_is_refused(monkeypatch):
    monkeypatch.setattr(patches.importlib.metadata, "version", lambda name: "0.9.2")
    with pytest.raises(RuntimeError, match=r"patch 'copied' was written for verl 0\.9\.1, found 0\.9\.2"):
        put_aside.apply_trainer_patches()


@pytest.mark.slow
def test_a_trainers_process_without_an_accelerator_has_the_patch_once():
    assert lines(run(OF_A_TRAINER)) == ["patched: True False"]
