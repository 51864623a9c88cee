import math

import pytest
import torch

from trm_agent.core.distribution_checks import check_log_probs
from trm_agent.core.exact import exact_divergences
from trm_agent.core.exact_hidden import exact_divergences_from_hidden

from . import reference_distributions as reference
from .distributions import logit_pairs

NAMES = ("kl", "reverse_kl", "tv")
# p below the smallest normal number is 0 in the function
SMALLEST = {torch.float32: 1.2e-38, torch.float64: 0.0}


def loops(rollout_logits: torch.Tensor, logits: torch.Tensor) -> list[torch.Tensor]:
    smallest = SMALLEST[logits.dtype]
    rows = zip(rollout_logits.double().tolist(), logits.double().tolist(), strict=True)
    return list(torch.tensor([reference.divergences(*row, smallest) for row in rows], dtype=torch.float64).unbind(-1))


def heads(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Hidden states and weights of two policies with unequal sizes: 7 tokens, 30 words."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((7, 5), (30, 5), (7, 6), (30, 6))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ten_thousand_pairs_equal_the_loops(dtype):
    epsilon = torch.finfo(dtype).eps
    num_pairs, num_infinite, kls = 0, 0, []
    for name, rollout_logits, logits in logit_pairs(dtype):
        found = exact_divergences(rollout_logits, logits)
        for field, wanted in zip(NAMES, loops(rollout_logits, logits), strict=True):
            got = getattr(found, field).double()
            finite = torch.isfinite(wanted)
            assert (got[~finite] == wanted[~finite]).all(), f"{field} of {name}"
            # The terms of a KL have an error of epsilon p |log ratio|, which sums to about epsilon sqrt(2 KL) for a
            # small one. The loops' own error is a relative 1e-15.
            scale = 2.0 if field == "tv" else 2.5 * (wanted + wanted.sqrt() + 4 * epsilon)
            assert ((got - wanted).abs() <= epsilon * scale + 1e-15 * (1 + wanted.abs()))[finite].all(), (
                f"{field} of {name}"
            )
            assert (got >= 0).all()
            if field == "kl":
                num_pairs += len(wanted)
                num_infinite += int((~finite).sum())
                kls.append(wanted[finite])
        assert (found.tv <= 1).all()
    kl = torch.cat(kls)
    assert num_pairs > 10_000
    assert num_infinite > 100
    assert ((kl > 1e-14) & (kl < 1e-9)).sum() > 100
    assert kl.max() > 1e4


def test_float32_keeps_small_divergences_that_the_textbook_form_loses():
    generator = torch.Generator().manual_seed(1)
    rollout_logits = 3 * torch.randn(4, 2000, generator=generator)
    for exponent, relative in ((-5, 1e-2), (-4, 1e-3), (-2, 1e-4)):
        logits = rollout_logits + 10.0**exponent * torch.randn(4, 2000, generator=generator)
        kl, reverse_kl, _ = loops(rollout_logits, logits)
        found = exact_divergences(rollout_logits, logits)
        torch.testing.assert_close(found.kl.double(), kl, rtol=relative, atol=0)
        torch.testing.assert_close(found.reverse_kl.double(), reverse_kl, rtol=relative, atol=0)
        if exponent == -5:
            assert kl.max() < 1e-10
            p, q = rollout_logits.log_softmax(-1), logits.log_softmax(-1)
            assert ((p.exp() * (p - q)).sum(-1).double() / kl - 1).abs().max() > 1


def test_a_whole_vocabulary_equals_the_loops():
    generator = torch.Generator().manual_seed(2)
    rollout_logits = 3 * torch.randn(2, 151_936, generator=generator)
    logits = rollout_logits + torch.tensor([[0.01], [1.0]]) * torch.randn(2, 151_936, generator=generator)
    found = exact_divergences(rollout_logits, logits)
    for field, wanted in zip(NAMES, loops(rollout_logits, logits), strict=True):
        torch.testing.assert_close(getattr(found, field).double(), wanted, rtol=1e-6, atol=0)


def test_direction_is_rollout_first():
    # p = (1/2, 1/2), q = (1/4, 3/4): KL(p||q) = log 2 / 2 + log(2/3) / 2, KL(q||p) = log(1/2) / 4 + 3 log(3/2) / 4.
    found = exact_divergences(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log())
    assert found.kl.item() == pytest.approx(math.log(2) / 2 + math.log(2 / 3) / 2, rel=1e-6)
    assert found.reverse_kl.item() == pytest.approx(math.log(1 / 2) / 4 + 3 * math.log(3 / 2) / 4, rel=1e-6)
    assert found.tv.item() == pytest.approx(0.25, rel=1e-6)


def test_zero_probabilities():
    # Rows: both exclude token 2; theta excludes what the rollout has; the rollout excludes what theta has; disjoint.
    zero = -math.inf
    rollout = torch.tensor([[0.0, 0.0, zero], [0.0, 0.0, zero], [0.0, zero, zero], [0.0, zero, zero]])
    policy = torch.tensor([[0.0, 0.0, zero], [0.0, zero, zero], [0.0, 0.0, zero], [zero, 0.0, zero]])
    found = exact_divergences(rollout, policy)
    assert found.kl.tolist() == pytest.approx([0.0, math.inf, math.log(2), math.inf], rel=1e-6)
    assert found.reverse_kl.tolist() == pytest.approx([0.0, math.log(2), math.inf, math.inf], rel=1e-6)
    assert found.tv.tolist() == pytest.approx([0.0, 0.5, 0.5, 1.0], rel=1e-6)


def test_identical_rows_are_at_zero_distance():
    logits = 5 * torch.randn(50, 300, generator=torch.Generator().manual_seed(4))
    found = exact_divergences(logits, logits.clone())
    assert all((getattr(found, name) == 0).all() for name in NAMES)


def test_total_variation_obeys_pinsker():
    for _, rollout_logits, logits in logit_pairs(torch.float64, seed=1):
        found = exact_divergences(rollout_logits, logits)
        assert (found.tv.square() <= torch.minimum(found.kl, found.reverse_kl) / 2 + 1e-15).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_no_distribution_gives_nan_and_spoils_no_other(bad):
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
    rollout = logits.flip(-1).clone()
    clean = exact_divergences(rollout, logits)
    # a single -infinity is a probability of 0, a whole row of them no distribution
    rollout[1, slice(None) if bad == -math.inf else 2] = bad
    logits[3, slice(None) if bad == -math.inf else 4] = bad
    found = exact_divergences(rollout, logits, chunk_tokens=4)
    for name in NAMES:
        assert torch.isnan(getattr(found, name)).tolist() == [False, True, False, True]
        torch.testing.assert_close(getattr(found, name)[[0, 2]], getattr(clean, name)[[0, 2]])


def test_chunks_and_precision_of_the_inputs_change_nothing():
    generator = torch.Generator().manual_seed(6)
    rollout, logits = torch.randn(11, 40, generator=generator), torch.randn(11, 40, generator=generator)
    whole = exact_divergences(rollout, logits)
    half = exact_divergences(rollout.bfloat16(), logits.bfloat16(), temperature=0.7)
    upcast = exact_divergences(rollout.bfloat16().float() / 0.7, logits.bfloat16().float() / 0.7)
    for name in NAMES:
        for chunk_tokens in (1, 3, 11, 100):
            found = exact_divergences(rollout, logits, chunk_tokens=chunk_tokens)
            torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=1e-6, atol=0)
        torch.testing.assert_close(getattr(half, name), getattr(upcast, name), rtol=0, atol=0)
        assert getattr(half, name).dtype == torch.float32
    assert exact_divergences(rollout.double(), logits).kl.dtype == torch.float64
    assert exact_divergences(rollout[:0], logits[:0]).kl.shape == (0,)


def test_inputs_stay_as_they_are_and_no_graph_is_built():
    rollout, logits = torch.randn(3, 8), torch.randn(3, 8, requires_grad=True)
    before = rollout.clone(), logits.detach().clone()
    found = exact_divergences(rollout, logits)
    assert not found.kl.requires_grad
    assert torch.equal(rollout, before[0])
    assert torch.equal(logits.detach(), before[1])


def test_log_probs_of_the_sampled_tokens():
    generator = torch.Generator().manual_seed(7)
    rollout, logits = torch.randn(9, 20, generator=generator), torch.randn(9, 20, generator=generator)
    ids = torch.randint(20, (9,), generator=generator)
    found = exact_divergences(rollout, logits, token_ids=ids, temperature=1.3, chunk_tokens=4)
    for values, got in ((rollout, found.rollout_log_probs), (logits, found.log_probs)):
        assert got is not None
        for row in range(9):
            assert got[row].item() == pytest.approx(
                reference.log_probs([value / 1.3 for value in values[row].tolist()])[ids[row]], rel=1e-5
            )
    assert exact_divergences(rollout, logits).log_probs is None


@pytest.mark.parametrize("chunks", [(100, 100), (3, 7), (7, 1), (1, 30)])
def test_hidden_states_give_what_their_logits_give(chunks):
    rollout_hidden, rollout_head, hidden, head = inputs = heads()
    ids = torch.arange(7) * 4
    options = {"token_ids": ids, "temperature": 0.8}
    expected = exact_divergences(rollout_hidden @ rollout_head.T, hidden @ head.T, **options)
    found = exact_divergences_from_hidden(*inputs, **options, chunk_tokens=chunks[0], chunk_vocab=chunks[1])
    for name in (*NAMES, "rollout_log_probs", "log_probs"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
    assert exact_divergences_from_hidden(*inputs).log_probs is None


def test_half_precision_products_are_rounded_as_a_head_rounds_them():
    inputs = heads(torch.bfloat16)
    rollout_hidden, rollout_head, hidden, head = inputs
    rounded = exact_divergences((rollout_hidden @ rollout_head.T).float(), (hidden @ head.T).float())
    upcast = exact_divergences(rollout_hidden.float() @ rollout_head.float().T, hidden.float() @ head.float().T)
    torch.testing.assert_close(exact_divergences_from_hidden(*inputs).kl, rounded.kl)
    torch.testing.assert_close(exact_divergences_from_hidden(*inputs, product_dtype=torch.float32).kl, upcast.kl)
    assert not torch.allclose(rounded.kl, upcast.kl)


def test_nearly_equal_heads_keep_their_small_divergence():
    rollout_hidden, rollout_head, _, _ = heads()
    moved = rollout_hidden * (1 + 1e-4)
    found = exact_divergences_from_hidden(rollout_hidden, rollout_head, moved, rollout_head, chunk_vocab=8)
    kl, _, tv = loops((rollout_hidden @ rollout_head.T), (moved @ rollout_head.T))
    assert kl.max() < 1e-6
    torch.testing.assert_close(found.kl.double(), kl, rtol=2e-2, atol=1e-12)
    torch.testing.assert_close(found.tv.double(), tv, rtol=2e-2, atol=1e-6)


def test_bad_arguments_are_refused():
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        exact_divergences(logits, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"vocab above 0"):
        exact_divergences(torch.zeros(2, 0), torch.zeros(2, 0))
    with pytest.raises(ValueError, match=r"temperature: got 0"):
        exact_divergences(logits, logits, temperature=0.0)
    with pytest.raises(ValueError, match=r"chunk_tokens: got 0"):
        exact_divergences(logits, logits, chunk_tokens=0)
    with pytest.raises(ValueError, match=r"token_ids: got shape \(3,\)"):
        exact_divergences(logits, logits, token_ids=torch.zeros(3, dtype=torch.int64))
    rollout_hidden, rollout_head, hidden, head = heads()
    with pytest.raises(ValueError, match=r"lm_head \(29, 6\)"):
        exact_divergences_from_hidden(rollout_hidden, rollout_head, hidden, head[:29])


def test_check_log_probs_names_the_fault():
    good = torch.randn(5, 9, generator=torch.Generator().manual_seed(8)).log_softmax(-1)
    good[0, 1:] = -math.inf
    good[0, 0] = 0.0
    check_log_probs(good)

    def spoiled(row: int, value: float | torch.Tensor) -> torch.Tensor:
        result = good.clone()
        result[row] = value
        return result

    with pytest.raises(ValueError, match=r"rollout row 3: got a NaN"):
        check_log_probs(spoiled(3, math.nan), name="rollout")
    with pytest.raises(ValueError, match=r"log_probs row 2: got a log-prob of 0.5.*log_softmax"):
        check_log_probs(spoiled(2, 0.5))
    with pytest.raises(ValueError, match=r"row 4: got probabilities that sum to 0.5"):
        check_log_probs(spoiled(4, good[4] + math.log(0.5)))
    with pytest.raises(ValueError, match=r"row 1: got probabilities that sum to 0;"):
        check_log_probs(spoiled(1, -math.inf))
    with pytest.raises(ValueError, match=r"\(num_tokens, vocab\)"):
        check_log_probs(good[0])
