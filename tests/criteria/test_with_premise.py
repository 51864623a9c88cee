"""What a threshold bounds where its premise holds: on trees whose sequences end at different lengths, by the code."""

import pytest
import torch

from tests.criteria.test_without_premise import ROUNDING, Tree, worst
from trm_agent.trust_region.criteria import CRITERIA, parts_of
from trm_agent.trust_region.criterion_bounds import CRITERION_BOUNDS, THETA, criterion_bound
from trm_agent.trust_region.masking import sequence_statistic
from trm_agent.trust_region.settings import TrmConfig

# the least share of its bound that the worst reward of some tree uses up
SHARES = {"max": 0.5, "avg": 0.3, "both": 0.5, "ln": 0.2, "ser": 0.2, "prefix_avg": 0.3}


@pytest.mark.parametrize("name", [name for name, bound in CRITERION_BOUNDS.items() if bound.policy == THETA])
def test_theta_stays_within_the_bound_of_thresholds_that_hold_on_every_path(name):
    used = 0.0
    for seed in range(150):
        tree = Tree(seed)
        batch, largest = tree.batch("exact"), tree.kl.max().item()
        # thresholds that the tree just keeps: premises that hold, by the statistics that the mask compares
        trm = TrmConfig(criterion=name, estimator="exact", max_token_kl=largest, max_token_tv=tree.tv.max().item())
        for part in parts_of(name):
            field = CRITERIA[part].thresholds[0].name
            statistic = sequence_statistic(part, trm, batch).upper.max().item()
            trm = TrmConfig(**{**vars(trm), field: max(statistic, 1e-12)})
        threshold = getattr(trm, CRITERIA[name].thresholds[0].name)
        bound = criterion_bound(name, tree.horizon, threshold, trm)
        kept = torch.ones_like(tree.mask)
        error = worst(tree.hybrid(kept) - 1 / len(kept) - tree.gains(kept))
        assert error <= bound + ROUNDING
        used = max(used, error / bound if tree.horizon > 1 else 0.0)
    assert used > SHARES[name]
