"""The loop in one file beside the trainer that it stands for."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("verl")

from tests.core.batches import Tensors
from tests.verl_plugin.loss_support import actor_config, batch_info, loss_of, through_verl, update_of
from trm_agent.models.hf_generator import HuggingFaceGenerator
from trm_agent.models.nano import NanoSpec, ensure_nano_model, make_model, make_tokenizer
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
def test_three_steps_take_less_than_a_minute_and_thirty_raise_success(one_step, monkeypatch, capsys):
    folder = ensure_nano_model(NanoSpec())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    before = success_of(one_step, model, tokenizer)
    monkeypatch.setattr(one_step, "AutoModelForCausalLM", SimpleNamespace(from_pretrained=lambda folder: model))
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--steps", "30"])
    one_step.main()
    steps = STEP.findall(capsys.readouterr().out)
    assert [int(number) for number, *_ in steps] == list(range(1, 31))
    # on policy, up to what float32 leaves
    assert {acceptance for _, _, acceptance, *_ in steps} == {"100.0"}
    assert all(float(norm) > 0 for *_, norm, _ in steps)
    assert sum(float(seconds) for *_, seconds in steps[:3]) < 60
    assert success_of(one_step, model, tokenizer) - before >= 0.1


def success_of(one_step: ModuleType, model: object, tokenizer: object) -> float:
    """Success on 64 tasks of horizon 2 that no step trains on, eight episodes each."""
    chat = one_step.ChatTokens(tokenizer)
    generator = HuggingFaceGenerator(model, chat.stop_token_ids)
    episodes = one_step.play(generator, chat, range(10**9, 10**9 + 64), 8, 2)
    return sum(episode.success for episode in episodes) / len(episodes)
