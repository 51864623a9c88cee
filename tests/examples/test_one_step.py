"""The loop in one file beside the trainer that it stands for."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("verl")

from tests.core.batches import Tensors
from tests.verl_plugin.loss_support import actor_config, batch_info, loss_of, through_verl, update_of
from trm_agent.models.hf_generator import HuggingFaceGenerator
from trm_agent.models.nano import NanoSpec, make_model, make_tokenizer
from trm_agent.trust_region.settings import TrmConfig

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "one_step.py"
STEP = re.compile(
    r"step (\d+)/\d+ +success +([\d.]+)% +acceptance +([\d.]+)% +loss +([-+\d.]+) +gradient norm +([\d.]+) +([\d.]+) s"
)


@pytest.fixture(scope="module")
def one_step() -> ModuleType:
    spec = importlib.util.spec_from_file_location("one_step", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["one_step"] = module
    spec.loader.exec_module(module)
    return module


def random_batch(one_step: ModuleType) -> tuple[object, torch.Tensor]:
    """Eight sequences, a quarter of whose log-probs moved far enough to matter, and the policy's log-probs."""
    random = torch.Generator().manual_seed(0)
    mask = torch.rand(8, 24, generator=random) < 0.6
    log_probs = -3 * torch.rand(8, 24, generator=random)
    moved = 0.4 * torch.randn(8, 24, generator=random) * (torch.arange(8) % 4 == 0)[:, None]
    rollout = torch.where(mask, log_probs - moved, 0.0)
    advantages = torch.randn(8, 1, generator=random)
    return one_step.Batch(torch.zeros(8, 24, dtype=torch.long), mask, rollout, advantages), log_probs.requires_grad_()


def test_loss_mask_and_gradient_are_those_of_the_policy_loss_in_verl(one_step):
    batch, log_probs = random_batch(one_step)
    loss, kept = one_step.masked_loss(log_probs, batch, 0.05)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    tensors = Tensors(log_probs, batch.rollout_log_probs, batch.advantages.expand(8, 24), batch.response_mask)
    config = actor_config(TrmConfig(max_token_kl=0.05), **batch_info(tensors))
    expected, _ = loss_of(tensors, config, "token-mean")
    (expected_gradient,) = torch.autograd.grad(expected, log_probs)
    metrics = through_verl([update_of([tensors], config)])
    assert 0 < kept.sum() < 8
    assert metrics["trm/acceptance"] == pytest.approx(kept.float().mean().item())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, expected_gradient)


def test_a_perturbed_rollout_log_prob_rejects_its_sequence_alone(one_step):
    batch, log_probs = random_batch(one_step)
    batch.rollout_log_probs.copy_(torch.where(batch.response_mask, log_probs.detach(), 0.0))
    _, kept = one_step.masked_loss(log_probs, batch, 0.05)
    assert kept.all()
    row, position = 5, int(batch.response_mask[5].nonzero()[-1])
    # k2 of 0.32 is 0.0512
    batch.rollout_log_probs[row, position] -= 0.32
    loss, kept = one_step.masked_loss(log_probs, batch, 0.05)
    assert [number for number in range(8) if not kept[number]] == [row]
    loss.backward()
    assert log_probs.grad[row].abs().max() == 0
    assert (log_probs.grad[torch.arange(8) != row].abs().sum(-1) > 0).all()


@pytest.fixture(scope="module")
def tiny() -> tuple[object, object]:
    spec = NanoSpec(hidden_size=32, mlp_size=64)
    tokenizer = make_tokenizer(spec)
    return make_model(spec, tokenizer), tokenizer


@pytest.mark.slow
def test_the_log_probs_of_the_example_are_those_of_its_engine(one_step, tiny):
    model, tokenizer = tiny
    chat = one_step.ChatTokens(tokenizer)
    generator = HuggingFaceGenerator(model, chat.stop_token_ids)
    episodes = one_step.play(generator, chat, range(3), 2, 2)
    batch = one_step.as_batch(episodes, 2)
    log_probs = one_step.log_probs_of(model, batch)
    mask = batch.response_mask
    torch.testing.assert_close(log_probs[mask], batch.rollout_log_probs[mask], atol=1e-4, rtol=0)
    assert all(len(set(episode.response_ids)) > 1 for episode in episodes)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_thirty_steps_raise_success_and_three_take_less_than_a_minute():
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--steps", "30"], capture_output=True, text=True, timeout=580, check=True
    )
    steps = STEP.findall(done.stdout)
    assert [int(number) for number, *_ in steps] == list(range(1, 31))
    # on policy, up to what float32 leaves
    assert {acceptance for _, _, acceptance, *_ in steps} == {"100.0"}
    assert all(float(norm) > 0 for *_, norm, _ in steps)
    assert sum(float(seconds) for *_, seconds in steps[:3]) < 60
    success = [float(success) for _, success, *_ in steps]
    assert sum(success[-5:]) / 5 - sum(success[:5]) / 5 >= 10
