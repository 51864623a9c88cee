"""Tokens and sequences on which the rule for the undecided decides, under criteria that keep single tokens."""

from dataclasses import replace

import pytest
import torch

from trm_agent.core.masks import Interval
from trm_agent.core.summary import summarize
from trm_agent.core.token_batch import BatchDivergences, TokenBatch
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.masking import examine
from trm_agent.trust_region.settings import TrmConfig

# three sequences of four tokens: one token around 0.05, none, one that is outside by both bounds
LOWER = [[0.0, 0.03, 0.0, 0.0], [0.01] * 4, [0.06, 0.0, 0.0, 0.0]]
UPPER = [[0.0, 0.06, 0.0, 0.0], [0.02] * 4, [0.08, 0.0, 0.0, 0.0]]


def batch(log_ratio: float = 0.0) -> TokenBatch:
    low, high = (torch.tensor(values, dtype=torch.float64) for values in (LOWER, UPPER))
    kl, tv = (Interval(low / scale, high / scale) for scale in (1, 2))
    ratios = torch.full_like(low, log_ratio)
    mask, advantages = torch.ones_like(low, dtype=torch.bool), torch.ones_like(low)
    measured = BatchDivergences(kl, kl, tv, torch.expm1(ratios))
    return TokenBatch(ratios, torch.full_like(low, -1.0), advantages, mask, measured)


@pytest.mark.parametrize("rule", ["reject", "accept"])
@pytest.mark.parametrize(
    ("criterion", "sequences", "tokens"),
    [
        # the token itself
        ("token", 1, 1),
        # and the two that follow it: kept only if it is
        ("stop", 1, 3),
        # up to a sum of 0.05 the upper bounds keep 1, 2, 0 tokens, the lower ones 4, 4, 0
        ("stop_cumulative", 2, 3 + 2),
        # of sequences: a statistic around its threshold, and the tokens around `max_token_kl`
        ("max", 1, 1),
    ],
)
def test_what_one_bound_keeps_and_the_other_does_not_is_undecided(criterion, sequences, tokens, rule):
    trm = TrmConfig(criterion=criterion, estimator="topk", undecided=rule, cumulative_kl=0.05)
    kept, statistics = examine(trm, batch())
    found = summarize(statistics)
    assert float(found["undecided"]) == pytest.approx(sequences / 3)
    assert float(found["undecided_tokens"]) == pytest.approx(tokens / 12)
    other = examine(replace(trm, undecided="accept" if rule == "reject" else "reject"), batch())[0]
    assert int((kept != other).sum()) == (tokens if criterion != "max" else 4)


def test_a_token_whose_ratio_no_loss_can_weigh_is_left_out_by_either_bound():
    trm = TrmConfig(criterion="token", estimator="topk")
    found = summarize(examine(trm, batch(log_ratio=1000.0))[1])
    assert (float(found["undecided"]), float(found["undecided_tokens"])) == (0, 0)


@pytest.mark.parametrize(("estimator", "calls"), [("sampled", 1), ("exact", 1), ("topk", 2)])
def test_a_rule_is_asked_twice_only_where_divergences_have_two_bounds(estimator, calls, monkeypatch):
    asked = []

    def keeps(of: TokenBatch, *, max_token_kl: float) -> torch.Tensor:
        asked.append(of)
        return of.divergences.kl_for_max.upper <= max_token_kl

    monkeypatch.setitem(CRITERIA, "token", replace(CRITERIA["token"], keeps=keeps))
    given = batch()
    if estimator != "topk":
        kl, tv = (Interval.known(each.upper) for each in (given.divergences.kl_for_max, given.divergences.tv))
        known = replace(given.divergences, kl_for_max=kl, kl_for_avg=kl, tv=tv)
        given = replace(given, measured=known if estimator == "exact" else None)
    found = summarize(examine(TrmConfig(criterion="token", estimator=estimator), given)[1])
    assert len(asked) == calls
    assert (float(found["undecided"]) > 0) == (calls == 2)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        # a stop by the upper bounds keeps 1, 4, 0 tokens of four, by the lower ones 4, 4, 0
        ("reject", [3, 0, 4]),
        ("accept", [0, 0, 4]),
    ],
)
def test_an_inverse_keeps_what_the_rule_leaves_out_and_the_same_tokens_are_undecided(rule, kept):
    trm = TrmConfig(criterion="inverse", controlled="stop", estimator="topk", undecided=rule)
    tokens, statistics = examine(trm, batch())
    assert tokens.sum(dim=-1).tolist() == kept
    found = summarize(statistics)
    assert float(found["undecided"]) == pytest.approx(1 / 3)
    assert float(found["undecided_tokens"]) == pytest.approx(3 / 12)
