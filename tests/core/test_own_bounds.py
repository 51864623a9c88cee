"""Our own bounds by enumeration: with the worst reward of each of more than 10,000 trees none may fail."""

import itertools
from dataclasses import dataclass, fields, replace

import pytest
import torch

from trm_agent.core.bounds import ErrorBounds, error_bounds, halved
from trm_agent.core.chi2_bounds import (
    chi2_kl_bound,
    path_sum_bound,
    pooled_chi2_kl_bound,
    proportional_chi2_kl_bound,
    token_chi2,
)
from trm_agent.core.stop import before_first_outside, cut_bound, hybrid_bound, stop_bound

from .trees import (
    ROUNDING,
    SIZES,
    Enumeration,
    Policy,
    all_trees,
    enumerate_trees,
    has_ended,
    largest_share,
    number_of_ended_trees,
    number_of_trees,
    parted_at_the_first_token,
    random_policies,
    token_kls,
)


def chi2_kl(trees: Enumeration) -> torch.Tensor:
    return chi2_kl_bound(trees.mean_chi2, trees.mean_kl)


def test_half_of_each_bound_of_the_paper_holds_and_a_quarter_does_not():
    errors, bounds = [], []
    for trees in all_trees():
        found = halved(error_bounds(trees.horizon, trees.max_kl, trees.seq_kl, max_tv=trees.max_tv))
        errors.append(trees.worst_error())
        bounds.append(found)
        assert all((errors[-1] <= getattr(found, field.name) + ROUNDING).all() for field in fields(ErrorBounds))
    for name in ("classical", "coupling", "pinsker_marginal_kl", "pinsker_marginal_tv", "adaptive"):
        assert largest_share(errors, [getattr(found, name) / 2 for found in bounds]) > 1, name


def test_half_of_mixed_tv_is_nearly_attained():
    # the distance of the policies stays e, and of each later token both sides gain e^2: 2 (T - 1) e^2 of 2 T e^2
    horizon, e = 8, 1e-4
    trees = enumerate_trees(*parted_at_the_first_token(horizon, e, rare=1e-9))
    assert ((trees.roll - trees.theta).abs().sum(-1) / 2).item() == pytest.approx(e, rel=1e-3)
    assert trees.max_tv.item() == pytest.approx(e)
    share = (trees.worst_error() / trees.bounds()["mixed_tv"]).item()
    assert share == pytest.approx((horizon - 1) / (2 * horizon), rel=1e-3)
    assert 0.4 < share < 0.5


def test_chi2_kl_holds_with_the_worst_reward():
    for trees in all_trees():
        bound, error = chi2_kl(trees), trees.worst_error()
        pooled = pooled_chi2_kl_bound(trees.horizon, trees.seq_chi2, trees.delayed_kl)
        assert (error <= bound + ROUNDING).all()
        assert (bound <= pooled * (1 + 1e-12) + ROUNDING).all()


def test_half_of_chi2_kl_does_not_hold_and_it_is_often_the_least():
    forest = all_trees()
    errors, bounds = [trees.worst_error() for trees in forest], [chi2_kl(trees) for trees in forest]
    assert largest_share(errors, [bound / 2 for bound in bounds]) > 1
    halves = [trees.bounds()["unified"] / 2 for trees in forest]
    pairs = [(bound, half) for bound, half, trees in zip(bounds, halves, forest, strict=True) if trees.horizon > 1]
    lower = torch.cat([bound < half for bound, half in pairs]).double().mean()
    assert 0.5 < lower < 1


def test_chi2_kl_of_two_tokens_is_attained():
    # every token's probability moves from 1/2 by e: chi2 = 4 e^2, KL = 2 e^2 + O(e^4); bound = 2 e sqrt(e^2), and with
    # the reward for two equal tokens the error is 2 e^2
    e = 1e-3
    roll = [torch.full((1, contexts, 2), 0.5, dtype=torch.float64) for contexts in (1, 2)]
    theta = [torch.tensor([0.5 + e, 0.5 - e], dtype=torch.float64).expand(1, contexts, 2) for contexts in (1, 2)]
    trees = enumerate_trees(roll, theta)
    assert trees.worst_error().item() == pytest.approx(2 * e**2, rel=1e-9)
    assert chi2_kl(trees).item() == pytest.approx(2 * e**2, rel=1e-5)


def test_the_path_sum_bounds_the_error_and_half_of_it_is_attained():
    errors = [trees.worst_error() for trees in all_trees()]
    bounds = [path_sum_bound(trees.horizon, trees.path_kl) for trees in all_trees()]
    for error, bound in zip(errors, bounds, strict=True):
        assert (error <= bound + ROUNDING).all()
    assert largest_share(errors, [bound / 3 for bound in bounds]) > 1


def test_the_path_sum_is_above_every_way_to_spend_the_budget_and_close_to_the_best():
    # sum_t sqrt(k_t (K - S_t)) is largest where k_t (K - S_t) is constant: S_t = K (1 - sqrt(1 - t/T))
    generator = torch.Generator().manual_seed(0)
    for horizon, budget in ((1, 0.3), (2, 0.1), (7, 0.01), (400, 1.5)):
        parts = torch.rand(200, horizon, generator=generator, dtype=torch.float64).log().neg() ** 2
        best = 1 - (1 - torch.arange(horizon + 1, dtype=torch.float64) / horizon).sqrt()
        parts = torch.cat([parts, torch.ones(1, horizon, dtype=torch.float64), best.diff().unsqueeze(0)])
        spent = budget * parts / parts.sum(-1, keepdim=True)
        left = (budget - spent.cumsum(-1)).clamp(min=0)
        total = (spent * left).sqrt().sum(-1)
        bound = path_sum_bound(horizon, budget).item()
        assert (total <= bound).all()
    assert total[-1] > 0.97 * bound


def test_chi2_kl_in_proportion_is_the_largest_over_all_profiles():
    generator = torch.Generator().manual_seed(1)
    for horizon, budget, ratio in ((20, 0.01, 2.0), (50, 0.3, 1.5), (400, 6.0, 4.0)):
        parts = torch.rand(100, horizon, generator=generator, dtype=torch.float64) ** 3
        parts = torch.cat([parts, torch.ones(1, horizon, dtype=torch.float64)])
        kl = budget * parts / parts.sum(-1, keepdim=True)
        found, bound = chi2_kl_bound(ratio * kl, kl), proportional_chi2_kl_bound(horizon, ratio * budget, budget)
        assert (found <= bound + ROUNDING).all()
        assert found.max() > 0.7 * bound


def test_table_1_in_halves_and_the_first_value_below_the_largest_reward():
    found = halved(error_bounds(4096, 1e-4, 0.01, max_tv=5e-3, seq_tv=0.05))
    printed = [f"{getattr(found, field.name).item():.1f}" for field in fields(ErrorBounds)]
    assert printed == ["419.3", "40.0", "17.5", "12.4", "4.1", "2.0", "12.4", "2.0"]
    # K sqrt(T / 2) = 0.01 * sqrt(2048)
    assert proportional_chi2_kl_bound(4096, 0.02, 0.01).item() == pytest.approx(0.4525, abs=1e-4)
    # the thresholds of the experiments: 2 T sqrt(d / 2) for the average, half of Pinsker-Marginal for the maximum
    assert path_sum_bound(4096, 4096 * 0.001).item() == pytest.approx(183.2, abs=0.05)


def test_what_is_infinite_costs_nothing_where_nothing_follows():
    # the last token's chi2, and a sequence of one token
    chi2, kl = torch.tensor([0.1, torch.inf]), torch.tensor([torch.inf, 0.02])
    assert chi2_kl_bound(chi2, kl).item() == pytest.approx((0.1 * 0.01) ** 0.5)
    assert pooled_chi2_kl_bound(1, torch.inf, 0.5).item() == 0.0
    assert pooled_chi2_kl_bound(2, torch.inf, 0.5).item() == torch.inf
    assert proportional_chi2_kl_bound(9, torch.inf, 0.0).item() == 0.0


def test_token_chi2_equals_the_loop_and_the_mean_of_its_estimate():
    generator = torch.Generator().manual_seed(0)
    roll, theta = (torch.randn(6, 9, generator=generator, dtype=torch.float64).softmax(-1) for _ in range(2))
    roll[0, 0] = theta[0, 0] = theta[1, 2] = 0.0
    found = token_chi2(roll.log(), theta.log())
    for row in range(6):
        loop = sum((q - p) ** 2 / p for p, q in zip(roll[row].tolist(), theta[row].tolist(), strict=True) if p > 0)
        estimate = sum(
            p * (q / p - 1) ** 2 for p, q in zip(roll[row].tolist(), theta[row].tolist(), strict=True) if p > 0
        )
        assert found[row].item() == pytest.approx(loop, rel=1e-12) == pytest.approx(estimate, rel=1e-12)
    assert token_chi2(torch.tensor([0.0, -torch.inf]), torch.tensor([0.5, 0.5]).log()).item() == torch.inf


@dataclass
class Cut:
    """Trees with theta replaced by the rollout policy from the first context outside on, or in each one outside."""

    hybrid: Enumeration
    max_kl: torch.Tensor  # delta of each tree, (batch,)
    left: torch.Tensor  # bool: has met a context outside, (batch, leaves)
    theta: torch.Tensor  # probability of every trajectory, (batch, leaves)
    plain_error: torch.Tensor  # of theta itself with its own first-order gain

    def worst_error(self) -> torch.Tensor:
        """The worst reward's |J(theta) - J(roll) - L'_hybrid|."""
        return replace(self.hybrid, theta=self.theta).worst_error()

    @property
    def stopped_share(self) -> torch.Tensor:
        return (self.hybrid.roll * self.left).sum(-1)

    def sums(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.hybrid.seq_kl, self.hybrid.seq_chi2, self.hybrid.delayed_kl


def cut_trees(roll: Policy, theta: Policy, max_kl: torch.Tensor, rule: str) -> Cut:
    vocabulary = roll[0].shape[-1]
    left, spent, hybrid = torch.zeros(len(max_kl), 1, dtype=torch.bool), torch.zeros(len(max_kl), 1), []
    for r, q, kl in zip(roll, theta, token_kls(roll, theta), strict=True):
        spent = spent + kl
        outside = (spent if rule == "cumulative" else kl) > max_kl.unsqueeze(-1)
        left = left | outside
        hybrid.append(torch.where((outside if rule == "skip" else left).unsqueeze(-1), r, q))
        left, spent = (each.repeat_interleave(vocabulary, 1) for each in (left, spent))
    whole, found = enumerate_trees(roll, theta), enumerate_trees(roll, hybrid)
    return Cut(replace(found, ratios=[]), max_kl, left, whole.theta, whole.worst_error())


def some_threshold(roll: Policy, theta: Policy, generator: torch.Generator, *, ends: bool) -> torch.Tensor:
    """A divergence that some contexts of the tree are above, seldom all; none of those beyond an end."""
    kls, vocabulary = token_kls(roll, theta), roll[0].shape[-1]
    kls = [kl[:, ~has_ended(vocabulary, depth)] for depth, kl in enumerate(kls)] if ends else kls
    values = torch.cat(kls, 1).sort(-1).values
    place = (torch.rand(len(values), 1, generator=generator) * values.shape[1]).long()
    return values.gather(1, place).squeeze(1).clamp(max=3.0)


@pytest.fixture(scope="module")
def cut_forest() -> dict[str, list[Cut]]:
    generator = torch.Generator().manual_seed(2)
    found: dict[str, list[Cut]] = {"stop": [], "skip": []}
    for size, ends in itertools.product(SIZES, (False, True)):
        number = number_of_ended_trees(*size) if ends else number_of_trees(*size)
        roll, theta = random_policies(*size, number, generator, ends=ends)
        max_kl = some_threshold(roll, theta, generator, ends=ends)
        for name, cuts in found.items():
            cuts.append(cut_trees(roll, theta, max_kl, name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["stop", "skip"])
def test_the_hybrid_is_inside_everywhere_and_its_bound_needs_no_premise(cut_forest, rule):
    cuts = cut_forest[rule]
    assert sum(len(cut.max_kl) for cut in cuts) >= 10_000
    without_premise_for_theta = 0
    for cut in cuts:
        trees, error = cut.hybrid, cut.hybrid.worst_error()
        assert (trees.max_kl <= cut.max_kl).all()
        from_delta = error_bounds(trees.horizon, cut.max_kl, trees.horizon * cut.max_kl).unified / 2
        assert (error <= from_delta + ROUNDING).all()
        assert (error <= hybrid_bound(trees.horizon, cut.max_kl, *cut.sums()) + ROUNDING).all()
        without_premise_for_theta += (cut.plain_error > from_delta + ROUNDING).sum().item()
    # theta itself breaks the same bound: delta does not hold for it
    assert without_premise_for_theta > 500
    errors = [cut.hybrid.worst_error() for cut in cuts]
    halves = [hybrid_bound(cut.hybrid.horizon, cut.max_kl, *cut.sums()) / 2 for cut in cuts]
    assert largest_share(errors, halves) > 1


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["stop", "skip"])
def test_what_is_cut_has_a_price_and_acceptance_pays_it(cut_forest, rule):
    shares, errors = [], []
    for cut in cut_forest[rule]:
        trees = cut.hybrid
        cut_by_theta, cut_by_hybrid = ((policy * cut.left).sum(-1) for policy in (cut.theta, trees.theta))
        torch.testing.assert_close(cut_by_theta, cut_by_hybrid, rtol=1e-9, atol=1e-12)
        distance = (cut.theta - trees.theta).abs().sum(-1) / 2
        assert (distance <= cut_by_theta + ROUNDING).all()
        price = cut_bound(cut.stopped_share, trees.seq_kl)
        assert (cut_by_theta <= price + ROUNDING).all()
        bound = stop_bound(trees.horizon, cut.max_kl, cut.stopped_share, *cut.sums())
        assert (cut.worst_error() <= bound + ROUNDING).all()
        errors.append(distance)
        shares.append(price / 2)
    assert largest_share(errors, shares) > 1


@pytest.mark.slow
def test_a_constant_reward_gains_nothing_by_stop_or_skip_and_something_by_a_sequence_mask(cut_forest):
    for cuts in cut_forest.values():
        for cut in cuts:
            torch.testing.assert_close(cut.hybrid.first_order.sum(-1), torch.zeros_like(cut.max_kl), rtol=0, atol=1e-10)
    roll, theta = random_policies(3, 4, 200, torch.Generator().manual_seed(3))
    cut, whole = (
        cut_trees(roll, theta, torch.full((200,), 0.05, dtype=torch.float64), "stop"),
        enumerate_trees(roll, theta),
    )
    gain = (whole.roll * ~cut.left * sum(rho - 1 for rho in whole.ratios)).sum(-1)
    assert gain.abs().max() > 0.05


def test_a_cumulative_stop_spends_no_more_on_any_path_and_has_the_path_sum_without_a_premise():
    generator = torch.Generator().manual_seed(6)
    beyond = 0
    for size, ends in itertools.product(SIZES, (False, True)):
        if size[0] ** size[1] > 1024:
            continue
        roll, theta = random_policies(*size, 100, generator, ends=ends)
        cut = cut_trees(roll, theta, some_threshold(roll, theta, generator, ends=ends), "cumulative")
        bound = path_sum_bound(cut.hybrid.horizon, cut.max_kl)
        assert (cut.hybrid.path_kl <= cut.max_kl * (1 + 1e-12)).all()
        assert (cut.hybrid.worst_error() <= bound + ROUNDING).all()
        beyond += (cut.plain_error > bound + ROUNDING).sum().item()
    # theta itself spends more
    assert beyond > 100


def test_the_surrogate_of_the_kept_prefix_is_the_hybrids():
    roll, theta = random_policies(3, 4, 40, torch.Generator().manual_seed(4))
    max_kl, whole = 0.02, enumerate_trees(roll, theta)
    cut = cut_trees(roll, theta, torch.full((40,), max_kl, dtype=torch.float64), "stop")
    leaves = whole.roll.shape[1]
    kl = torch.stack([kl.repeat_interleave(leaves // kl.shape[1], 1) for kl in token_kls(roll, theta)], -1)
    before = before_first_outside(kl.flatten(0, 1), max_kl).view_as(kl)
    kept = whole.roll * ((torch.stack(whole.ratios, -1) - 1) * before).sum(-1)
    torch.testing.assert_close(kept, cut.hybrid.first_order, rtol=0, atol=1e-12)
    assert 0 < before.double().mean() < 1


def test_a_divergence_that_is_not_a_number_stops():
    kl = torch.tensor([[0.0, 0.1, torch.nan, 0.0], [0.3, 0.0, 0.0, 0.0], [0.1, 0.1, 0.0, 0.2]])
    assert before_first_outside(kl, 0.2).tolist() == [[True, True, False, False], [False] * 4, [True] * 4]
