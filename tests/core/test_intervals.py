import math

import pytest
import torch

from trm_agent.core.distribution_checks import check_topk
from trm_agent.core.intervals import DivergenceInterval, topk_intervals

from . import reference_distributions as reference
from .distributions import logit_pairs

BOUNDS = ("kl_lower", "kl_upper", "tv_lower", "tv_upper")


def exact(rollout_logits: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = zip(rollout_logits.double().tolist(), logits.double().tolist(), strict=True)
    kl, _, tv = torch.tensor([reference.divergences(*row) for row in rows], dtype=torch.float64).unbind(-1)
    return kl, tv


def intervals(rollout_log_probs: torch.Tensor, logits: torch.Tensor, k: int, **options) -> DivergenceInterval:
    """The K most probable tokens in a random order, then the function's bounds."""
    values, ids = rollout_log_probs.topk(k, dim=-1)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(k))
    return topk_intervals(ids[:, order], values[:, order], logits, **options)


def random_probs(vocab: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One pair of distributions without zeros, float64."""
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(2, vocab, dtype=torch.float64, generator=generator) * 1.5).softmax(-1)
    return p, q


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ten_thousand_pairs_lie_in_their_intervals(dtype):
    num_pairs, num_tight = 0, 0
    for name, rollout_logits, logits in logit_pairs(dtype, seed=2):
        kl, tv = exact(rollout_logits, logits)
        vocab = logits.shape[-1]
        # as a sampler computes them, and rounded once from float64
        sources = (rollout_logits.log_softmax(-1), rollout_logits.double().log_softmax(-1).to(dtype))
        for log_probs in sources:
            for k in {1, 2, vocab // 2, vocab - 1, vocab} - {0}:
                found = intervals(log_probs, logits, k)
                message = f"{name}, K = {k}"
                assert (found.kl_lower <= kl).all(), message
                assert (kl <= found.kl_upper).all(), message
                assert (found.tv_lower <= tv).all(), message
                assert (tv <= found.tv_upper).all(), message
                assert (found.tv_upper <= 1).all(), message
                assert torch.stack([found.kl_lower, found.tv_lower, found.tail_mass]).amin() >= 0, message
        num_pairs += len(logits)
        num_tight += int((found.kl_upper - found.kl_lower < 1e-4).sum())
    assert num_pairs > 10_000
    assert num_tight > num_pairs / 2


def test_a_large_vocabulary_lies_in_its_interval_though_float32_loses_a_part_of_its_tail():
    # A sure token: the CPU's float32 log_softmax adds the others to its 1, where the small ones vanish. theta differs
    # in that token alone, so the tail is proportional and the lower bounds are attained: they have no room to spare.
    generator = torch.Generator().manual_seed(0)
    rollout_logits = 3 * torch.randn(2, 151_936, generator=generator)
    rollout_logits[:, 5] += 20
    logits = rollout_logits.clone()
    logits[:, 5] -= 5
    kl, tv = exact(rollout_logits, logits)
    log_probs = rollout_logits.log_softmax(-1)
    for k in (1, 20):
        found = intervals(log_probs, logits, k)
        assert (found.kl_lower <= kl).all()
        assert (kl <= found.kl_upper).all()
        assert (found.tv_lower <= tv).all()
        assert (tv <= found.tv_upper).all()
        torch.testing.assert_close(found.tv_lower, tv, rtol=1e-2, atol=0)


def test_the_whole_vocabulary_leaves_no_width():
    for name, rollout_logits, logits in logit_pairs(torch.float64, seed=3):
        if name.startswith("zeros"):
            continue
        kl, tv = exact(rollout_logits, logits)
        found = intervals(rollout_logits.log_softmax(-1), logits, logits.shape[-1])
        for bounds, value in (((found.kl_lower, found.kl_upper), kl), ((found.tv_lower, found.tv_upper), tv)):
            for bound in bounds:
                torch.testing.assert_close(bound, value, rtol=1e-10, atol=1e-12)
        assert (found.tail_mass == 0).all()


def test_more_known_tokens_never_widen_the_interval():
    generator = torch.Generator().manual_seed(1)
    rollout, logits = (torch.randn(200, 20, dtype=torch.float64, generator=generator) for _ in range(2))
    before = None
    for k in range(1, 21):
        found = intervals(rollout.log_softmax(-1), logits, k)
        if before is not None:
            for sign, name in ((1, "kl_lower"), (-1, "kl_upper"), (1, "tv_lower"), (-1, "tv_upper")):
                assert (sign * getattr(found, name) >= sign * getattr(before, name) - 1e-11).all(), name
        before = found


@pytest.mark.parametrize("vocab", [2, 3, 4, 5, 6])
def test_the_upper_bound_is_the_best_of_all_placements(vocab):
    for seed in range(40):
        p, q = random_probs(vocab, seed)
        if seed % 4 == 0:
            q = (q * 6).round().clamp(min=1)
            q = q / q.sum()
        for k in range(1, vocab + 1):
            values, ids = p.topk(k)
            known = dict(zip(ids.tolist(), values.tolist(), strict=True))
            placements = reference.vertex_placements(known, vocab)
            assert all(sum(placement) == pytest.approx(1) for placement in placements)
            divergences = [reference.divergences_of_probs(placement, q.tolist()) for placement in placements]
            found = topk_intervals(ids[None], values.log()[None], q.log()[None])
            # 1e-12: what the slack for rounding of the log-probs may add
            assert found.kl_upper.item() == pytest.approx(max(kl for kl, _ in divergences), rel=1e-11, abs=1e-12)
            assert found.tv_upper.item() == pytest.approx(max(tv for _, tv in divergences), rel=1e-11, abs=1e-12)


def test_the_lower_bound_is_attained_by_a_proportional_tail():
    for seed in range(40):
        _, q = random_probs(12, seed)
        known = torch.tensor([0.4, 0.3, 0.2], dtype=torch.float64)
        # 0.1 spread over nine tokens in proportion to q stays below 0.2 each
        p = torch.cat([known, 0.1 * q[3:] / q[3:].sum()])
        found = topk_intervals(torch.arange(3)[None], known.log()[None], q.log()[None])
        kl, tv = reference.divergences_of_probs(p.tolist(), q.tolist())
        assert found.kl_lower.item() == pytest.approx(kl, rel=1e-11, abs=1e-12)
        assert found.tv_lower.item() == pytest.approx(tv, rel=1e-11, abs=1e-12)
        assert found.tail_mass.item() == pytest.approx(0.1)


def test_an_example_by_hand():
    # K = 1 with p = 0.4 over four tokens, q = (0.4, 0.3, 0.2, 0.1): the tail of 0.6 is at most 0.4 on the token with
    # q = 0.1 and 0.2 on the next. KL <= 0.4 log(0.4/0.1) + 0.2 log(0.2/0.2), 2 TV <= 0.3 + 0 + 0.3. Both are 0 below.
    p, q = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    found = topk_intervals(torch.tensor([[0]]), p.log(), q.log())
    assert found.kl_upper.item() == pytest.approx(0.4 * math.log(4))
    assert found.tv_upper.item() == pytest.approx(0.3)
    assert found.kl_lower.item() == pytest.approx(0, abs=1e-12)
    assert found.tv_lower.item() == pytest.approx(0, abs=1e-12)


def test_bounds_obey_pinsker():
    for _, rollout_logits, logits in logit_pairs(torch.float64, seed=4):
        found = intervals(rollout_logits.log_softmax(-1), logits, 2)
        assert (found.tv_lower.square() <= found.kl_upper / 2 + 1e-12).all()


def test_a_tail_on_a_token_that_theta_excludes_is_infinitely_far():
    log_probs = torch.tensor([[0.6, 0.3]]).log()
    logits = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()
    found = topk_intervals(torch.tensor([[0, 1]]), log_probs, logits)
    assert found.kl_upper.item() == math.inf
    assert found.kl_lower.item() < 0.1
    # the excluded token is known to have nothing
    whole = topk_intervals(torch.tensor([[0, 1, 2]]), torch.tensor([[0.6, 0.3, 0.1]]).log(), logits[:, :3])
    assert whole.kl_upper.item() == pytest.approx(0.6 * math.log(1.2) + 0.1 * math.log(0.5), rel=1e-4)
    # a known token that theta excludes
    certain = topk_intervals(torch.tensor([[3, 0]]), log_probs, logits)
    assert certain.kl_lower.item() == math.inf


def test_filler_counts_as_unknown_whatever_its_id():
    p, q = random_probs(9, seed=1)
    # nearly flat: the tail of about 6/9 needs about six tokens
    p = (p + 1) / 10
    values, ids = p.topk(3)
    expected = topk_intervals(ids[None], values.log()[None], q.log()[None])
    for filler_id in (-1, 0, int(ids[0]), 8, 10**6):
        # 5 of filler: if they counted as tokens without probability, the last one could not hold the tail
        padded_ids = torch.cat([torch.tensor([filler_id]), ids, torch.tensor([filler_id] * 4)])
        padded = torch.cat([torch.tensor([-math.inf]), values.log(), torch.full((4,), -math.inf)])
        found = topk_intervals(padded_ids[None], padded[None], q.log()[None])
        for name in BOUNDS:
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=0)
    # nothing known at all: everything on the least probable token
    nothing = topk_intervals(torch.tensor([[-1, 4]]), torch.full((1, 2), -math.inf).double(), q.log()[None])
    assert nothing.kl_upper.item() == pytest.approx(-q.min().log().item(), rel=1e-9)
    assert nothing.tv_upper.item() == pytest.approx(1 - q.min().item(), rel=1e-9)
    assert nothing.kl_lower.item() == nothing.tv_lower.item() == 0
    assert nothing.tail_mass.item() == 1


def test_sums_that_rounding_brought_above_one_stay_certified():
    # float32 log-probs of a distribution on three tokens, each rounded up by two units in the last place
    p, q = random_probs(3, seed=2)
    log_probs = torch.nextafter(torch.nextafter(p.float().log(), torch.tensor(0.0)), torch.tensor(0.0))
    kl, tv = reference.divergences_of_probs(p.tolist(), q.tolist())
    logits = torch.cat([q.log(), torch.tensor([-60.0, -80.0]).double()])
    for ids, values in (([0, 1, 2], log_probs), ([0, 1, 2, 3], torch.cat([log_probs, torch.tensor([-200.0])]))):
        assert values.double().exp().sum() > 1
        found = topk_intervals(torch.tensor([ids]), values[None], logits[None])
        assert found.kl_lower.item() <= kl <= found.kl_upper.item() < kl + 1e-3
        assert found.tv_lower.item() <= tv <= found.tv_upper.item() < tv + 1e-4
        assert found.tail_mass.item() == 0


def test_a_given_error_of_the_log_probs_is_covered():
    generator = torch.Generator().manual_seed(9)
    rollout, logits = (torch.randn(300, 10, dtype=torch.float64, generator=generator) for _ in range(2))
    kl, tv = exact(rollout, logits)
    log_probs = rollout.log_softmax(-1)
    error = 0.01
    noise = (2 * torch.rand(log_probs.shape, dtype=torch.float64, generator=generator) - 1) * error
    noisy = log_probs + noise * (1 + log_probs.abs()) * 0.9
    for k in (1, 4, 9, 10):
        ids = log_probs.topk(k, dim=-1).indices
        found = topk_intervals(ids, noisy.gather(1, ids), logits, log_prob_error=error)
        assert (found.kl_lower <= kl).all()
        assert (kl <= found.kl_upper).all()
        assert (found.tv_lower <= tv).all()
        assert (tv <= found.tv_upper).all()


def test_chunks_order_and_precision_of_the_logits_change_nothing():
    generator = torch.Generator().manual_seed(5)
    rollout, logits = 3 * torch.randn(13, 30, generator=generator), torch.randn(13, 30, generator=generator).bfloat16()
    values, ids = rollout.log_softmax(-1).topk(4, dim=-1)
    expected = topk_intervals(ids, values, logits)
    for chunk_tokens in (1, 5, 13, 99):
        found = topk_intervals(ids.flip(-1), values.flip(-1), logits.float(), chunk_tokens=chunk_tokens)
        for name in (*BOUNDS, "tail_mass"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-15)
    assert topk_intervals(ids[:0], values[:0], logits[:0]).kl_lower.shape == (0,)


@pytest.mark.parametrize("place", ["log-probs", "logits"])
def test_nan_spoils_its_own_row_alone(place):
    generator = torch.Generator().manual_seed(6)
    rollout, logits = torch.randn(3, 8, generator=generator), torch.randn(3, 8, generator=generator)
    values, ids = rollout.log_softmax(-1).topk(3, dim=-1)
    (values if place == "log-probs" else logits)[1, 2] = math.nan
    found = topk_intervals(ids, values, logits)
    for name in BOUNDS:
        assert torch.isnan(getattr(found, name)).tolist() == [False, True, False]


def test_no_graph_is_built():
    logits = torch.randn(2, 5, requires_grad=True)
    assert not topk_intervals(
        torch.zeros(2, 1, dtype=torch.int64), torch.full((2, 1), -0.5), logits
    ).kl_upper.requires_grad


def test_bad_shapes_are_refused():
    logits, ids, values = torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"logits \(3,\)"):
        topk_intervals(ids, values, logits[0])
    with pytest.raises(ValueError, match=r"the 1 tokens"):
        topk_intervals(ids[:1], values[:1], logits)
    with pytest.raises(ValueError, match=r"K: got 4; allowed: 1 to the vocabulary's 3"):
        topk_intervals(ids.repeat(1, 2), values.repeat(1, 2), logits)
    with pytest.raises(ValueError, match=r"topk_ids \(2, 2\) and topk_log_probs \(2, 1\)"):
        topk_intervals(ids, values[:, :1], logits)
    with pytest.raises(ValueError, match=r"torch.int32; allowed: torch.int64"):
        topk_intervals(ids.int(), values, logits)


def test_check_topk_names_the_fault():
    p = torch.randn(4, 8, generator=torch.Generator().manual_seed(7)).softmax(-1)
    good_values, good_ids = p.log().topk(3, dim=-1)
    check_topk(good_ids, good_values, vocab=8)
    filler = torch.cat([good_values, torch.full((4, 2), -math.inf)], dim=-1)
    check_topk(torch.cat([good_ids, torch.full((4, 2), -7)], dim=-1), filler, vocab=8)

    def refused(message: str, *, ids: int | None = None, value: float | None = None, place: int = 1) -> None:
        spoiled_ids, spoiled = good_ids.clone(), good_values.clone()
        if ids is not None:
            spoiled_ids[2, place] = ids
        if value is not None:
            spoiled[2, place] = value
        with pytest.raises(ValueError, match=message):
            check_topk(spoiled_ids, spoiled, vocab=8)

    refused(r"topk_ids row 2: got the id 8; allowed: 0 to 7", ids=8)
    refused(r"topk_ids row 2: got the id -2;", ids=-2)
    refused(rf"topk_ids row 2: got twice the id {int(good_ids[2, 0])};", ids=int(good_ids[2, 0]))
    refused(r"topk_log_probs row 2: got a NaN", value=math.nan)
    refused(r"topk_log_probs row 2: got a log-prob of 0.7", value=0.7)
    refused(r"topk_log_probs row 2: got probabilities that sum to 1\.\d+; allowed: at most 1", value=-0.01)
    # the least known token is so improbable that the others cannot make up the rest
    refused(r"topk_log_probs row 2: got probabilities that sum to 0\.\d+; .*K most probable", value=-30.0, place=2)
    with pytest.raises(ValueError, match=r"K: got 3; allowed: 1 to the vocabulary's 2"):
        check_topk(good_ids, good_values, vocab=2)
