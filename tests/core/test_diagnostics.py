import math
import random

import pytest
import torch

from trm_agent.core import MaskDiagnostics, masked_log_ratio, measure_mask, token_kl
from trm_agent.core.histograms import (
    DIVERGENCE_EDGES,
    LENGTH_EDGES,
    NUM_DIVERGENCE_BINS,
    NUM_LENGTH_BINS,
    count_bins,
    divergence_bins,
    divergence_quantile,
    kept_fraction_by_quartile,
    length_bins,
)

from . import reference
from .batches import Tensors, to_tensors
from .test_masks import decide

THRESHOLDS = (0.01, 0.002)


def measure(tensors: Tensors, thresholds=THRESHOLDS, ratio_truncation=None) -> MaskDiagnostics:
    log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask)
    mask = decide(tensors, *thresholds)
    return measure_mask(
        log_ratio, token_kl(log_ratio, "k2"), tensors.response_mask, mask, ratio_truncation=ratio_truncation
    )


def test_every_statistic_equals_the_loops():
    batch = reference.random_batch(12)
    found = measure(to_tensors(batch, filler=math.nan), ratio_truncation=1.05)
    counted = [i for i in range(len(batch)) if batch.log_probs[i]]
    k2 = [reference.sequence_divergences(batch, i, "k2") for i in counted]
    k3 = [value for i in counted for value in reference.sequence_divergences(batch, i, "k3")]
    rho = [math.exp(-value) for i in counted for value in reference.sequence_divergences(batch, i, "k1")]
    accepted = [reference.accepted(batch, i, *THRESHOLDS) for i in counted]
    expected = {
        "num_sequences": len(counted),
        "num_accepted": sum(accepted),
        "num_rejected_by_max": sum(not reference.accepted(batch, i, THRESHOLDS[0], None) for i in counted),
        "num_rejected_by_avg": sum(not reference.accepted(batch, i, None, THRESHOLDS[1]) for i in counted),
        "num_nonfinite": 0,
        "num_tokens": len(k3),
        "num_truncated_tokens": sum(value > 1.05 for value in rho),
        "sum_token_kl_k3": sum(k3),
        "sum_ppl_gap": reference.perplexity_gap(batch) * len(counted),
        "ratio_min": min(rho),
        "ratio_max": max(rho),
        "token_kl_k2_max": max(max(values) for values in k2),
    }
    for name, value in expected.items():
        assert getattr(found, name).item() == pytest.approx(value, rel=1e-9), name
    assert 0 < expected["num_accepted"] < len(counted)
    assert 0 < expected["num_truncated_tokens"] < len(k3)
    assert found.length_counts.sum() == found.divergence_counts.sum() == len(counted)
    assert found.accepted_length_counts.sum() == sum(accepted)


def test_parts_add_up_to_the_whole():
    whole = to_tensors(reference.random_batch(13))
    total = measure(whole)
    parts = [measure(whole.rows(part)) for part in (slice(0, 1), slice(1, 4), slice(4, None))]
    for name, value in vars(total).items():
        pieces = torch.stack([getattr(part, name) for part in parts])
        combine = {"ratio_min": torch.amin, "ratio_max": torch.amax, "token_kl_k2_max": torch.amax}.get(name, torch.sum)
        torch.testing.assert_close(combine(pieces, dim=0), value, rtol=1e-12, atol=1e-14, msg=name)


def test_nothing_carries_a_graph():
    assert not any(value.requires_grad for value in vars(measure(to_tensors(reference.random_batch(0)))).values())


def test_a_batch_of_padding_counts_nothing():
    mask = torch.zeros(2, 3, dtype=torch.bool)
    found = measure(Tensors(torch.full((2, 3), math.nan), torch.zeros(2, 3), torch.zeros(2, 3), mask))
    for name, value in vars(found).items():
        neutral = {"ratio_min": math.inf, "ratio_max": -math.inf, "token_kl_k2_max": -math.inf}.get(name, 0.0)
        assert (value == neutral).all(), name


def test_a_sequence_that_is_not_finite_is_counted_and_left_out_of_the_means():
    mask = torch.ones(2, 1, dtype=torch.bool)
    found = measure(Tensors(torch.tensor([[-math.inf], [-0.9]]), torch.full((2, 1), -1.0), torch.ones(2, 1), mask))
    assert (found.num_sequences.item(), found.num_nonfinite.item(), found.num_tokens.item()) == (2, 1, 1)
    assert found.sum_ppl_gap.item() == pytest.approx(0.1, rel=1e-5)
    assert found.ratio_max.item() == found.ratio_min.item() == pytest.approx(math.exp(0.1), rel=1e-5)
    # Its divergence still shows among the quantiles, at the top.
    assert found.divergence_counts[-1].item() == 1


def test_quantiles_are_off_by_less_than_a_bin():
    rng = random.Random(0)
    values = sorted(10 ** rng.uniform(-9, 3) for _ in range(4000))
    bins = divergence_bins(torch.tensor(values, dtype=torch.float64))
    counts = count_bins(bins, torch.ones(len(values), dtype=torch.bool), NUM_DIVERGENCE_BINS).tolist()
    for quantile in (0.01, 0.5, 0.9, 0.99, 1.0):
        exact = values[math.ceil(quantile * len(values)) - 1]
        assert abs(math.log10(divergence_quantile(counts, quantile) / exact)) < 1 / 8


def test_quantiles_at_the_ends():
    below, above = [0.0] * NUM_DIVERGENCE_BINS, [0.0] * NUM_DIVERGENCE_BINS
    below[divergence_bins(torch.tensor([0.0])).item()] = 3.0
    above[divergence_bins(torch.tensor([math.nan])).item()] = 3.0
    assert divergence_quantile(below, 0.5) == 0.0
    assert divergence_quantile(above, 0.5) == DIVERGENCE_EDGES[-1]


def test_length_bins_hold_their_lengths():
    lengths = torch.arange(1, 5000)
    bins = length_bins(lengths)
    assert bins[:8].tolist() == list(range(8))
    for length, index in zip(lengths.tolist(), bins.tolist(), strict=True):
        assert LENGTH_EDGES[index] <= length < LENGTH_EDGES[index + 1]
    assert length_bins(torch.tensor([2**30])).item() == NUM_LENGTH_BINS - 1


def test_quartiles_of_eight_lengths():
    # Lengths 1 to 8, the three longest rejected: groups (1, 2), (3, 4), (5, 6), (7, 8).
    lengths = torch.arange(1, 9)
    counts = count_bins(length_bins(lengths), torch.ones(8, dtype=torch.bool), NUM_LENGTH_BINS).tolist()
    kept = count_bins(length_bins(lengths), lengths < 6, NUM_LENGTH_BINS).tolist()
    assert kept_fraction_by_quartile(counts, kept) == pytest.approx([1.0, 1.0, 0.5, 0.0])


def test_sequences_of_one_length_share_the_quartiles():
    assert kept_fraction_by_quartile([0.0, 6.0], [0.0, 3.0]) == pytest.approx([0.5] * 4)
