"""Turns in lockstep: what is kept from turn to turn changes no log-prob, whoever leaves and whoever comes."""

import asyncio
import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trm_agent.models.lockstep import LockstepGenerator, grouped_attention, suits

STOP = 1


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
    )
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config).eval()


def true_log_probs(model: LlamaForCausalLM, context: list[int], turn: list[int], temperature: float) -> list[float]:
    with torch.no_grad():
        logits = model(torch.tensor([[*context, *turn]])).logits[0].double() / temperature
    rows = logits.log_softmax(-1)[len(context) - 1 : -1]
    return [float(row[token]) for row, token in zip(rows, turn, strict=True)]


def play(
    generator: LockstepGenerator, lengths: list[int], draw: random.Random, shared: tuple[int, ...] = ()
) -> list[tuple[list[int], list, list]]:
    """Play an episode of so many turns for each number; return context, turn and log-probs of each turn.

    All contexts begin with the shared tokens.
    """
    turns = []

    async def episode(number: int) -> None:
        context = [*shared, *(draw.randrange(2, 40) for _ in range(draw.randrange(1, 9)))]
        for _ in range(number):
            made = await generator.generate(list(context), draw.randrange(1, 7))
            turns.append((list(context), made.token_ids, made.log_probs))
            context += [*made.token_ids, *(draw.randrange(2, 40) for _ in range(draw.randrange(1, 6)))]
        generator.playing -= 1

    async def all_of_them() -> None:
        generator.playing = len(lengths)
        await asyncio.gather(*(episode(number) for number in lengths))

    asyncio.run(all_of_them())
    return turns


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probs_are_those_of_the_whole_context_though_episodes_end_one_after_the_other(model, temperature) -> None:
    generator = LockstepGenerator(model, [STOP], temperature=temperature, seed=3)
    turns = play(generator, [1, 5, 3, 5, 2], random.Random(7))
    assert len(turns) == 16
    for context, turn, log_probs in turns:
        # float32 beside float64: sums of 48 products
        assert log_probs == pytest.approx(true_log_probs(model, context, turn, temperature), abs=2e-5)
    lengths = {len(turn) for _, turn, _ in turns}
    assert len(lengths) > 2, "turns of one length would show no gaps"


def test_new_episodes_after_the_first_ones_begin_anew(model) -> None:
    generator = LockstepGenerator(model, [STOP], seed=4)
    turns = [turn for seed in range(2) for turn in play(generator, [2, 2], random.Random(seed))]
    for context, turn, log_probs in turns:
        assert log_probs == pytest.approx(true_log_probs(model, context, turn, 1.0), abs=2e-5)


def test_a_context_is_computed_once(model, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = LockstepGenerator(model, [STOP], seed=5)
    columns = []
    forward = generator._kept._forward
    monkeypatch.setattr(
        generator._kept, "_forward", lambda ids, mask: columns.append(int(mask.sum())) or forward(ids, mask)
    )
    turns = play(generator, [6, 4, 5], random.Random(2))
    longest = {tuple(context[:1]): len(context) + len(turn) for context, turn, _ in turns}
    assert len(longest) == 3, "the episodes begin with different tokens"
    # the last token of a turn is not computed before the next one
    assert sum(columns) == sum(longest.values()) - 3
    assert sum(len(context) + len(turn) for context, turn, _ in turns) > 2 * sum(columns)


@pytest.mark.parametrize("shared", [(5, 6, 7, 8, 9, 10), (5,)])
def test_what_all_contexts_begin_with_is_computed_once(model, monkeypatch: pytest.MonkeyPatch, shared) -> None:
    generator = LockstepGenerator(model, [STOP], seed=8)
    columns = []
    forward = generator._kept._forward
    monkeypatch.setattr(
        generator._kept, "_forward", lambda ids, mask: columns.append(int(mask.sum())) or forward(ids, mask)
    )
    turns = play(generator, [3, 1, 4], random.Random(2), shared)
    for context, turn, log_probs in turns:
        assert log_probs == pytest.approx(true_log_probs(model, context, turn, 1.0), abs=2e-5)
    own = {tuple(context[len(shared) : len(shared) + 1]): len(context) + len(turn) for context, turn, _ in turns}
    assert len(own) == 3, "the episodes go on with different tokens"
    assert sum(columns) == len(shared) + sum(own.values()) - 3 * (1 + len(shared))


def test_equal_contexts_have_a_token_of_their_own(model) -> None:
    context = [3, 4, 5]

    async def both() -> list:
        generator = LockstepGenerator(model, [STOP], seed=9)
        generator.playing = 2
        return await asyncio.gather(*(generator.generate(list(context), 4) for _ in range(2)))

    for made in asyncio.run(both()):
        assert made.log_probs == pytest.approx(true_log_probs(model, context, made.token_ids, 1.0), abs=2e-5)


def test_the_model_attends_as_before_afterwards(model) -> None:
    play(LockstepGenerator(model, [STOP], seed=6), [1], random.Random(2))
    assert model.config._attn_implementation == "sdpa"


def test_several_query_heads_attend_to_a_key_head_without_its_copies() -> None:
    torch.manual_seed(1)
    query, key, value = torch.randn(3, 6, 4, 8), torch.randn(3, 2, 9, 8), torch.randn(3, 2, 9, 8)
    mask = torch.rand(3, 1, 4, 9) < 0.6
    mask[..., 0] = True
    out, _ = grouped_attention(None, query, key, value, mask, scaling=0.3)
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key.repeat_interleave(3, 1)) * 0.3
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    expected = torch.einsum("bhqk,bhkd->bqhd", weights, value.repeat_interleave(3, 1))
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)


def test_models_that_do_not_see_their_whole_context_do_not_suit(model) -> None:
    assert suits(model.config)
    assert not suits(LlamaConfig(sliding_window=64))
    assert not suits(LlamaConfig(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"]))
