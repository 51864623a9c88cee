"""What docs/criteria.md promises of the criteria without a premise: on trees, exactly, through the table."""

import math

import pytest
import torch

from tests.core.test_summary import uniform_tree
from tests.core.trees import has_ended
from trm_agent.core.bounds import error_bounds
from trm_agent.core.masks import Interval
from trm_agent.core.token_batch import BatchDivergences, TokenBatch
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.masking import decide
from trm_agent.trust_region.settings import TrmConfig

WITHOUT_PREMISE = [name for name, row in CRITERIA.items() if row.without_premise]
SIZES = [(2, 1), (2, 3), (3, 3), (5, 2), (2, 5)]
ROUNDING = 1e-12


class Tree:
    """All trajectories of a tree whose rollout is uniform, and what a criterion keeps of them.

    Those of an odd seed end with the last token of the vocabulary: what follows it is padding, which repeats them.
    """

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        vocabulary, self.horizon = SIZES[seed % len(SIZES)]
        spread = 10 ** (2 * torch.rand((), generator=generator).item() - 1.5)
        self.log_ratio, self.kl, self.tv, self.theta = uniform_tree(vocabulary, self.horizon, spread, generator)
        contexts = [
            has_ended(vocabulary, t).repeat_interleave(vocabulary ** (self.horizon - t)) for t in range(self.horizon)
        ]
        ended = torch.stack(contexts, -1)
        self.mask = ~ended if seed % 2 else torch.ones_like(ended)
        self.log_ratio, self.kl, self.tv = (values * self.mask for values in (self.log_ratio, self.kl, self.tv))
        self.theta = self.log_ratio.sum(dim=-1).exp() / len(self.theta)

    def batch(self, estimator: str) -> TokenBatch:
        known = [Interval.known(values) for values in (self.kl, self.kl, self.tv)]
        measured = BatchDivergences(*known, self.log_ratio.expm1()) if estimator == "exact" else None
        ones = torch.ones_like(self.log_ratio)
        return TokenBatch(self.log_ratio, -ones, ones, self.mask, measured)

    def kept(self, name: str, estimator: str) -> torch.Tensor:
        """The tokens that are not left out, those of the padding among them."""
        return decide(self.settings(name, estimator), self.batch(estimator)) | ~self.mask

    def settings(self, name: str, estimator: str) -> TrmConfig:
        of_tokens, of_paths = self.kl[self.mask].median().item(), self.kl.sum(dim=-1).median().item()
        thresholds = {"max_token_kl": of_tokens, "avg_token_kl": of_tokens, "cumulative_kl": of_paths}
        return TrmConfig(criterion=name, estimator=estimator, **thresholds)

    def gains(self, kept: torch.Tensor) -> torch.Tensor:
        """The contribution of each trajectory's reward to the masked first-order gain."""
        return torch.where(kept, self.log_ratio.expm1(), 0.0).sum(dim=-1) / len(kept)

    def hybrid(self, kept: torch.Tensor) -> torch.Tensor:
        """The probabilities under the policy that follows the rollout where a token is not kept."""
        return torch.where(kept, self.log_ratio, 0.0).sum(dim=-1).exp() / len(kept)


def worst(per_reward: torch.Tensor) -> float:
    """The largest absolute value over all rewards in [0, 1]."""
    return max(per_reward.clamp(min=0).sum().item(), -per_reward.clamp(max=0).sum().item())


@pytest.mark.parametrize("name", WITHOUT_PREMISE)
def test_what_is_kept_is_the_surrogate_of_a_policy_within_the_threshold(name):
    masked = 0
    for seed in range(150):
        tree = Tree(seed)
        kept = tree.kept(name, "exact")
        masked += not kept.all()
        hybrid, leaves = tree.hybrid(kept), len(kept)
        assert hybrid.sum().item() == pytest.approx(1.0, abs=ROUNDING)
        # a constant reward has nothing to gain
        assert tree.gains(kept).sum().item() == pytest.approx(0.0, abs=ROUNDING)
        inside = torch.where(kept, tree.kl, 0.0)
        largest, along = inside.max().item(), inside.sum(dim=-1)
        error = worst(hybrid - 1 / leaves - tree.gains(kept))
        assert error <= error_bounds(tree.horizon, largest, along.mean().item()).unified.item() + ROUNDING
        settings = tree.settings(name, "exact")
        if name == "stop_cumulative":
            assert along.max() <= settings.cumulative_kl + ROUNDING
            assert error <= settings.cumulative_kl * math.sqrt(tree.horizon / 2) + ROUNDING
        else:
            assert largest <= settings.max_token_kl
        if name != "token":
            # the policy in training differs by no more than its chance to leave the region
            left = tree.theta[~kept.all(dim=-1)].sum().item()
            assert (tree.theta - hybrid).abs().sum().item() / 2 <= left + ROUNDING
    assert masked > 50


@pytest.mark.parametrize(
    ("name", "estimator"),
    [(name, "sampled") for name in WITHOUT_PREMISE] + [("max", "exact"), ("avg", "exact"), ("prefix_avg", "exact")],
)
def test_a_decision_by_the_drawn_token_or_by_later_ones_is_no_such_surrogate(name, estimator):
    trees = [Tree(seed) for seed in range(50)]
    assert max(abs(tree.gains(tree.kept(name, estimator)).sum().item()) for tree in trees) > 1e-3
