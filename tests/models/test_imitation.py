"""Imitation of solved episodes: what is learnt from, which weights move, which are kept."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trm_agent.episode import chat_tokens
from trm_agent.models.imitated import Batches, tokenised, tokeniser
from trm_agent.models.imitation import Batch, Imitation, Schedule, State, halving, imitate, token_log_probs
from trm_agent.models.nano import NanoSpec, make_tokenizer
from trm_agent.models.traces import Solver
from trm_agent.models.warm_start import make_batch

SCHEDULE = Schedule(learning_rate=1e-2, target=0.0, max_steps=4, max_seconds=math.inf, measure_every=2)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(NanoSpec())


@pytest.fixture
def batch() -> Batch:
    ids = torch.arange(12).view(2, 6) % 8
    return Batch(ids, torch.tensor([[False, False, True, True, False, True], [False, True, True, False, False, False]]))


def fresh(dtype: torch.dtype = torch.float32, **changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, **changes}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1, num_key_value_heads=1)).to(dtype)


def test_the_tokens_of_an_imitated_episode_are_those_of_the_whole_conversation(tokenizer) -> None:
    # the nano model's tokenizer merges nothing across turns, so that both ways must agree but for what follows the end
    trace = Solver("trm/ChainMath-v0", "train").solve(3, 4)
    ids, mask = tokenised(trace, tokenizer, chat_tokens(tokenizer))
    whole = make_batch(tokenizer, [trace])
    assert whole.input_ids[0, : len(ids)].tolist() == ids
    assert whole.loss_mask[0, : len(ids)].tolist() == mask
    assert not whole.loss_mask[0, len(ids) :].any()
    written = [message["content"] + "<|im_end|>" for message in trace.messages if message["role"] == "assistant"]
    assert tokenizer.decode([token for token, own in zip(ids, mask, strict=True) if own]) == "".join(written)


def test_batches_have_about_as_many_tokens_as_asked_and_never_the_same_tasks(tokenizer) -> None:
    tokenise = tokeniser(tokenizer, chat_tokens(tokenizer))
    batches = Batches(Solver("trm/ChainMath-v0", "train"), tokenise, (1, 3), 400, seed=1)
    drawn = [batches.draw() for _ in range(6)]
    assert {len(each.input_ids) for each in drawn} == {400 // batches.lengths[1], 400 // batches.lengths[3]}
    rows = [tuple(row.tolist()) for each in drawn for row in each.input_ids]
    assert len(set(rows)) == len(rows)
    assert batches.num_tokens == sum(each.input_ids.numel() for each in drawn)


def test_log_probs_are_those_of_the_masked_tokens_with_and_without_a_factor_on_the_logits(batch) -> None:
    for model in (fresh(), _scaled(fresh())):
        with torch.no_grad():
            logits = model(batch.input_ids).logits.double().log_softmax(-1)
            found = token_log_probs(model, batch)
        places = batch.loss_mask[:, 1:].nonzero()
        expected = [float(logits[row, place, batch.input_ids[row, place + 1]]) for row, place in places]
        assert found.tolist() == pytest.approx(expected, abs=1e-5)


def _scaled(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Return a model that multiplies its logits behind the last matrix, and says so."""
    model.config.logit_scale = 0.25
    forward = model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 0.25
        return output

    model.forward = scaled
    return model


def test_steps_below_the_rounding_of_bfloat16_add_up_in_float32(batch) -> None:
    # a step of 1e-5 is below half of bfloat16's spacing at 0.03 and more (2^-14), so that without masters nothing moves
    schedule = Schedule(learning_rate=1e-5, target=0.0, max_steps=100, max_seconds=math.inf, warm_up_steps=1)
    imitation = Imitation(fresh(torch.bfloat16), schedule)
    before = imitation.copy()
    weight = imitation.model.model.embed_tokens.weight.detach().clone()
    imitation.take_step(batch)
    large = weight.abs() > 0.03
    assert torch.equal(imitation.model.model.embed_tokens.weight[large], weight[large])
    assert imitation.model.dtype == torch.bfloat16
    for _ in range(40):
        imitation.take_step(batch)
    moved = imitation.copy()["model.embed_tokens.weight"] - before["model.embed_tokens.weight"]
    assert float(moved.abs().max()) > 1e-4
    assert not torch.equal(imitation.model.model.embed_tokens.weight[large], weight[large])


def test_the_average_is_a_running_mean_of_the_weights(batch) -> None:
    imitation = Imitation(fresh(), SCHEDULE)
    expected = imitation.copy()["lm_head.weight"]
    for step in range(1, 4):
        imitation.take_step(batch)
        share = 1 - min(0.95, step / (step + 10))
        expected = expected + share * (imitation.copy()["lm_head.weight"] - expected)
    torch.testing.assert_close(imitation.average["lm_head.weight"], expected)


def test_without_a_target_all_steps_are_taken_and_the_average_is_kept(batch) -> None:
    imitation = Imitation(fresh(), SCHEDULE)
    ending = imitate(imitation, lambda: batch, lambda: 0.5, halving)
    assert (ending.num_steps, ending.reached, ending.success) == (4, True, 0.5)
    assert torch.equal(imitation.model.lm_head.weight, imitation.average["lm_head.weight"])


def test_the_weights_that_are_kept_lie_between_the_last_average_below_the_target_and_the_first_above(batch) -> None:
    # success as if a number in the weights were it: 0 at the start, and what the steps add
    imitation = Imitation(fresh(), Schedule(1e-2, 0.3, 50, math.inf, measure_every=2, warm_up_steps=1))
    first = float(imitation.copy()["lm_head.weight"].abs().sum())

    def success() -> float:
        return abs(float(imitation.model.lm_head.weight.detach().abs().sum()) - first)

    seen: list[State] = []
    ending = imitate(imitation, lambda: batch, success, halving, report=seen.append)
    assert ending.reached
    assert ending.num_steps == len(seen)
    assert success() == pytest.approx(0.3, abs=0.05)
    assert seen[-1].success >= 0.3


def test_a_target_that_is_not_reached_leaves_the_weights_of_the_last_step(batch) -> None:
    imitation = Imitation(fresh(), Schedule(1e-2, 0.9, 4, math.inf, measure_every=2))
    ending = imitate(imitation, lambda: batch, lambda: 0.1, halving)
    assert (ending.num_steps, ending.reached, ending.success) == (4, False, 0.1)
    assert torch.equal(imitation.model.lm_head.weight, imitation.copy()["lm_head.weight"])


def test_only_what_requires_a_gradient_is_trained(batch) -> None:
    model = fresh()
    for name, weight in model.named_parameters():
        weight.requires_grad_("lm_head" in name)
    imitation = Imitation(model, SCHEDULE)
    before = model.model.embed_tokens.weight.detach().clone()
    imitation.take_step(batch)
    assert list(imitation.copy()) == ["lm_head.weight"]
    assert torch.equal(model.model.embed_tokens.weight, before)
