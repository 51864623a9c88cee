"""Metrics by depth and by sign, and effective sample sizes, against loops over single tokens in float64."""

import math
from collections import defaultdict

import pytest
import torch

from trm_agent.core.block_sums import block_sums
from trm_agent.core.by_depth import FIRST_DEPTHS, depth_metrics, depth_statistics
from trm_agent.core.by_sign import sign_metrics, sign_statistics
from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.effective_sizes import weight_metrics, weight_statistics
from trm_agent.core.ratios import divided
from trm_agent.core.summary import summarize
from trm_agent.core.token_batch import TokenBatch
from trm_agent.core.turns import find_turns
from trm_agent.trust_region.masking import examine
from trm_agent.trust_region.settings import TrmConfig

from . import reference
from .batches import to_tensors

MAX_TOKEN_KL = 0.02
# lengths around the borders of bins at 64 and 128, and beyond the last one at 131,072
PROMPTS = (0, 1, 60, 63, 64, 120, 127, 131_071, 5)
SEED = 21


def batch_and_tokens(seed: int = SEED, pad: int = 0) -> tuple[reference.Batch, TokenBatch]:
    batch = reference.random_batch(seed, num_sequences=len(PROMPTS))
    width = max(map(len, batch.log_probs)) + pad
    tensors = to_tensors(batch, width=width)
    log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask).detach()
    advantages = tensors.advantages.nan_to_num(0.0)
    prompts = torch.tensor(PROMPTS)
    return batch, TokenBatch(
        log_ratio, tensors.rollout_log_probs, advantages, tensors.response_mask, prompt_lengths=prompts
    )


def metrics(tokens: TokenBatch, **settings) -> dict[str, float]:
    _, update = examine(TrmConfig(**{"max_token_kl": MAX_TOKEN_KL, **settings}), tokens)
    return {name: value.item() for name, value in summarize(update).items()}


def by_token(batch: reference.Batch, criterion: str):
    """Of every sampled token: its sequence, depth, k3, ratio, advantage, and whether the criterion keeps it."""
    for row in range(len(batch)):
        k2 = [
            reference.token_divergence(*pair, "k2")
            for pair in zip(batch.log_probs[row], batch.rollout_log_probs[row], strict=True)
        ]
        inside = [value <= MAX_TOKEN_KL for value in k2]
        sampled = batch.sampled[row]
        all_inside = all(is_inside for is_inside, own in zip(inside, sampled, strict=True) if own)
        for place, own in enumerate(sampled):
            if own:
                pair = batch.log_probs[row][place], batch.rollout_log_probs[row][place]
                kept = inside[place] if criterion == "token" else all_inside
                ratio = math.exp(pair[0] - pair[1])
                k3 = reference.token_divergence(*pair, "k3")
                yield row, PROMPTS[row] + place, k3, ratio, batch.advantages[row][place], kept


@pytest.mark.parametrize("criterion", ["max", "token"])
@pytest.mark.parametrize("pad", [0, 5])
def test_depths_are_binned_token_by_token(criterion, pad):
    batch, tokens = batch_and_tokens(pad=pad)
    bins = defaultdict(list)
    for _, depth, k3, _, _, kept in by_token(batch, criterion):
        bins[max(first for first in FIRST_DEPTHS if first <= depth)].append((depth, k3, kept))
    assert set(bins) == {0, 64, 128, 65536, 131072}
    expected = {}
    for first, found in bins.items():
        depths, k3, kept = (sum(values) for values in zip(*found, strict=True))
        expected[f"num_tokens_depth_{first}"] = len(found)
        expected[f"kept_tokens_depth_{first}"] = kept / len(found)
        expected[f"mean_depth_{first}"] = depths / len(found)
        expected[f"token_kl_mean_depth_{first}"] = k3 / len(found)
    found = metrics(tokens, criterion=criterion)
    assert {name: value for name, value in found.items() if "depth" in name} == pytest.approx(expected, rel=1e-9)
    shares = [value for name, value in expected.items() if name.startswith("kept")]
    assert any(0 < share < 1 for share in shares)


def test_without_the_prompts_nothing_is_measured_by_depth():
    _, tokens = batch_and_tokens()
    known = metrics(tokens)
    unknown = metrics(TokenBatch(tokens.log_ratio, tokens.rollout_log_probs, tokens.advantages, tokens.response_mask))
    assert {name for name in known if name not in unknown} == {name for name in known if "depth" in name}


def test_a_small_divergence_behind_a_large_one_keeps_its_digits():
    # sums are differences of prefixes: 1e-12 a token behind 200 tokens of 1
    kl = torch.cat([torch.ones(1, 200), torch.full((1, 200), 1e-7)], dim=1)
    mask = torch.ones_like(kl, dtype=torch.bool)
    rows = depth_statistics(torch.tensor([56]), mask.cumsum(-1), torch.tensor([True]), block_sums(kl))
    # depths 56-63, 64-127, 128-255, 256-511, of which the last holds the 200 small ones alone
    assert rows["tokens"][0, :4].tolist() == [8, 64, 128, 200]
    assert rows["kl"][0, 3].item() == pytest.approx(2e-5, rel=1e-6)


@pytest.mark.parametrize("criterion", ["max", "token"])
def test_signs_are_counted_token_by_token(criterion):
    batch, tokens = batch_and_tokens()
    count = len({row for row, *_ in by_token(batch, criterion)})
    expected = {}
    for sign, factor in (("positive", 1), ("negative", -1)):
        own = [found for found in by_token(batch, criterion) if factor * found[4] > 0]
        kept = {}
        for row, *_, keeps in own:
            kept[row] = kept.get(row, False) or keeps
        expected[f"acceptance_{sign}"] = sum(kept.values()) / len(kept)
        expected[f"kept_tokens_{sign}"] = sum(found[-1] for found in own) / len(own)
        terms = [(-advantage * (ratio - 1), keeps) for _, _, _, ratio, advantage, keeps in own]
        expected[f"contribution_{sign}"] = sum(term for term, _ in terms) / count
        expected[f"contribution_{sign}_masked"] = sum(term for term, keeps in terms if keeps) / count
    found = metrics(tokens, criterion=criterion)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    total = found["contribution_positive"] + found["contribution_negative"]
    assert total == pytest.approx(-found["surrogate_gain"], rel=1e-9)


def signs(advantages: torch.Tensor, deviation: torch.Tensor, mask: torch.Tensor, kept: torch.Tensor):
    return sign_statistics(
        advantages,
        deviation,
        mask,
        kept,
        num_tokens=mask.sum(-1),
        num_kept=kept.sum(-1) if kept.ndim == 2 else torch.where(kept, mask.sum(-1), 0),
        sum_deviation=deviation.sum(-1).double(),
        first=mask.int().argmax(-1),
    )


def test_advantages_of_both_signs_in_a_sequence_are_told_apart():
    advantages, gains = torch.tensor([[1.0, -2.0, 0.0, 3.0]]), torch.tensor([[0.5, 0.25, 0.0, -1.0]])
    mask, kept = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[True, True, True, False]])
    rows = signs(advantages, gains / advantages.where(advantages != 0, torch.ones(())), mask, kept)
    assert rows["tokens"].tolist() == [[2, 1]]
    assert rows["kept"].tolist() == [[1, 1]]
    assert rows["gains"].tolist() == [[-0.5, 0.25]]
    assert rows["kept_gains"].tolist() == [[0.5, 0.25]]
    found = divided(sign_metrics(rows, torch.tensor([True]), torch.tensor([True])))
    # mostly positive: it counts there, and nowhere else
    assert found["acceptance_positive"] == 1
    assert "acceptance_negative" not in found


def effective(weights: list[float]) -> float:
    return sum(weights) ** 2 / sum(weight**2 for weight in weights) / len(weights)


def test_effective_sizes_are_those_of_tokens_turns_and_sequences():
    batch, tokens = batch_and_tokens()
    turns, sequences, singles = [], [], []
    for row in range(len(batch)):
        before = False
        for place, own in enumerate(batch.sampled[row]):
            ratio = math.exp(batch.log_probs[row][place] - batch.rollout_log_probs[row][place])
            if own:
                singles.append(ratio)
                turns = turns if before else [*turns, 1.0]
                turns[-1] *= ratio
            before = own
        own = [found[3] for found in by_token(batch, "max") if found[0] == row]
        sequences += [math.prod(own)] if own else []
    assert len(sequences) < len(turns) < len(singles)
    found = metrics(tokens)
    expected = {"tokens": effective(singles), "turns": effective(turns), "sequences": effective(sequences)}
    assert {name: found[f"effective_{name}"] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert all(value < 0.99 for value in expected.values())


def sizes(log_ratio: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, float]:
    mask = torch.ones_like(log_ratio, dtype=torch.bool) if mask is None else mask
    turns, deviation = find_turns(mask), log_ratio.expm1()
    rows = weight_statistics(block_sums(log_ratio), deviation, deviation.sum(-1).double(), turns)
    found = weight_metrics(rows, mask.sum(-1), turns.counts, mask.any(-1))
    return {name.removeprefix("effective_"): value.item() for name, value in found.items()}


def test_on_policy_every_sample_counts():
    mask = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    assert sizes(torch.zeros(3, 3), mask) == pytest.approx(
        dict.fromkeys(("tokens", "turns", "sequences"), 1.0), abs=1e-12
    )


def test_one_weight_that_outweighs_all_leaves_one_sample():
    # w = e^2000 overflows every float, and (e^60)^2 float32
    far = torch.zeros(4, 100)
    far[0] = 20.0
    assert sizes(far)["sequences"] == pytest.approx(1 / 4)
    large = torch.zeros(4, 1)
    large[0] = 60.0
    assert sizes(large)["tokens"] == pytest.approx(1 / 4)
    # all weights are 0 in float32, and alike
    assert sizes(torch.full((2, 3), -200.0))["sequences"] == pytest.approx(1.0)


def test_a_sequence_that_is_not_finite_is_in_no_breakdown():
    batch, tokens = batch_and_tokens()
    rows = [row for row in range(len(batch)) if batch.sampled[row]]
    spoilt = tokens.log_ratio.clone()
    place = int(tokens.response_mask[rows[0]].nonzero()[0])
    spoilt[rows[0], place] = torch.inf
    left = tokens.rows(torch.tensor([row for row in range(len(batch)) if row != rows[0]]))
    names = ("token_kl_mean_depth", "mean_depth", "effective", "contribution")
    found, expected = (
        metrics(
            TokenBatch(
                spoilt,
                tokens.rollout_log_probs,
                tokens.advantages,
                tokens.response_mask,
                prompt_lengths=tokens.prompt_lengths,
            )
        ),
        metrics(left),
    )
    assert found["nonfinite"] > 0
    picked = {name: value for name, value in expected.items() if name.startswith(names)}
    assert len(picked) > 10
    assert {name: found[name] for name in picked} == pytest.approx(picked, rel=1e-9)


def test_a_batch_without_a_bin_or_a_sign_has_no_such_number():
    nothing = torch.zeros(2, dtype=torch.bool)
    assert depth_metrics({}, nothing) == {}
    rows = signs(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3) > 0, nothing)
    assert divided(sign_metrics(rows, nothing, ~nothing)) == {}
    assert weight_metrics({}, nothing, nothing, nothing) == {}
