"""Metrics by lag: a worked example, and no split of a batch shows in them."""

import math
from dataclasses import replace

import pytest
import torch

from trm_agent.core.diagnostics import concatenate
from trm_agent.core.lags import NUM_LAGS, lag_statistics
from trm_agent.core.summary import summarize
from trm_agent.core.token_batch import TokenBatch
from trm_agent.trust_region.masking import examine
from trm_agent.trust_region.settings import TrmConfig

# k2 of 0.2 is 0.02 and of 0.4 it is 0.08: with a threshold of 0.05 the second sequence is rejected
LOG_RATIO = torch.tensor([[0.0, 0.2, 0.0, 0.0], [0.4, 0.0, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
MASK = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
# the third is of one version alone, the last is padding; 7 updates count as 3 or more
LAGS = torch.tensor([[1, 1, -1, 0], [7, -1, 1, 0], [0, 0, 0, 0], [-1, -1, -1, -1]])
ZEROS = torch.zeros(4, 4)
# of the last nothing counts
ADVANTAGES = torch.tensor([1.0, -1.0, -0.5, -2.0])[:, None].expand(4, 4)


def batch(lags: torch.Tensor | None = LAGS, log_ratio: torch.Tensor = LOG_RATIO) -> TokenBatch:
    return TokenBatch(torch.where(MASK, log_ratio, 0.0), ZEROS, ADVANTAGES, MASK, lags=lags)


def metrics(of: TokenBatch, **settings) -> dict[str, float]:
    update = examine(TrmConfig(**{"max_token_kl": 0.05, **settings}), of)[1]
    return {name: value.item() for name, value in summarize(update).items() if "_lag_" in name}


def k3(value: float) -> float:
    return math.expm1(value) - value


def test_each_token_counts_with_its_own_lag_and_each_sequence_with_its_oldest_tokens():
    # ten tokens: six of lag 0, three of lag 1, one of lag 7
    assert metrics(batch()) == pytest.approx(
        {
            "acceptance_lag_0": 1.0,
            "acceptance_lag_1": 1.0,
            "acceptance_lag_3": 0.0,
            **{f"sequences_lag_{lag}": share for lag, share in enumerate((1 / 3, 1 / 3, 0, 1 / 3))},
            # a share that is 0 is written, else a mean over steps would leave it out
            **{f"tokens_lag_{lag}": share for lag, share in enumerate((6 / 10, 3 / 10, 0, 1 / 10))},
            # those of the rejected sequence are lost at every lag
            "kept_tokens_lag_0": 5 / 6,
            "kept_tokens_lag_1": 2 / 3,
            "kept_tokens_lag_3": 0.0,
            "token_kl_mean_lag_0": 0.0,
            "token_kl_mean_lag_1": (k3(0.2) + k3(0.1)) / 3,
            "token_kl_mean_lag_3": k3(0.4),
        },
        rel=1e-5,
    )


def test_a_mask_of_tokens_keeps_some_of_each_lag():
    found = metrics(batch(), criterion="token", token_tv=0.2)
    # only |e^0.4 - 1| / 2 = 0.25 is above 0.2
    assert [found[f"kept_tokens_lag_{lag}"] for lag in (0, 1, 3)] == [1, 1, 0]


def test_a_batch_of_one_policy_has_no_such_metrics():
    assert metrics(batch(lags=None)) == {}


def test_a_sequence_that_is_not_finite_is_in_no_mean():
    infinite = LOG_RATIO.clone()
    infinite[1, 0] = math.inf
    found = metrics(batch(log_ratio=infinite))
    assert "token_kl_mean_lag_3" not in found
    assert found["token_kl_mean_lag_1"] == pytest.approx(k3(0.2) / 2, rel=1e-5)
    assert found["acceptance_lag_3"] == 0


@pytest.mark.parametrize("split", [[[0], [1, 2], [3]], [[3, 2], [1, 0]]])
def test_no_split_of_a_batch_shows(split):
    trm = TrmConfig(max_token_kl=0.05)
    whole = summarize(examine(trm, batch())[1])
    parts = [examine(trm, batch().rows(torch.tensor(rows)))[1] for rows in split]
    joined = summarize(concatenate(parts))
    names = [name for name in whole if "_lag_" in name or "_span_" in name]
    assert len(names) == 45
    assert {name: joined[name].item() for name in names} == pytest.approx(
        {name: whole[name].item() for name in names}, rel=1e-6
    )


def test_the_span_of_a_sequence_is_from_its_oldest_to_its_newest_token():
    # lags 1, 1, 0; 7, 1, 0; four times 0; none: spans 1, 7 (three or more), 0
    update = examine(TrmConfig(max_token_kl=0.05), batch())[1]
    assert update.sequences.by_lag["span"].tolist() == [1, 3, 0, -1]
    found = {name: value.item() for name, value in summarize(update).items() if "_span_" in name}
    assert found == pytest.approx(
        {
            **{f"sequences_span_{span}": share for span, share in enumerate((1 / 3, 1 / 3, 0, 1 / 3))},
            **{f"tokens_span_{span}": share for span, share in enumerate((4 / 10, 3 / 10, 0, 3 / 10))},
            **{f"sequences_positive_span_{span}": share for span, share in enumerate((0, 1 / 3, 0, 0))},
            **{f"sequences_negative_span_{span}": share for span, share in enumerate((1 / 3, 0, 0, 1 / 3))},
            "acceptance_span_0": 1.0,
            "acceptance_span_1": 1.0,
            "acceptance_span_3": 0.0,
            "kept_tokens_span_0": 1.0,
            "kept_tokens_span_1": 1.0,
            "kept_tokens_span_3": 0.0,
            "acceptance_positive_span_1": 1.0,
            "acceptance_negative_span_0": 1.0,
            "acceptance_negative_span_3": 0.0,
            "token_kl_mean_span_0": 0.0,
            "token_kl_mean_span_1": k3(0.2) / 3,
            "token_kl_mean_span_3": (k3(0.4) + k3(0.1)) / 3,
        },
        rel=1e-5,
    )


def test_a_mask_of_tokens_keeps_some_of_each_span():
    update = examine(TrmConfig(criterion="token", max_token_kl=0.05), batch())[1]
    # |0.4| alone is outside: one of the three tokens of span 3, whose sequence counts as accepted
    found = summarize(update)
    assert [found[f"kept_tokens_span_{span}"].item() for span in (0, 1, 3)] == pytest.approx([1, 1, 2 / 3])
    assert found["acceptance_negative_span_3"] == 1


def test_a_sequence_without_an_advantage_is_of_no_sign():
    of = replace(batch(), advantages=ADVANTAGES.clone().index_fill_(0, torch.tensor([0, 2]), 0.0))
    found = summarize(examine(TrmConfig(max_token_kl=0.05), of)[1])
    signed = {name for name in found if "_span_" in name and name.startswith(("acceptance_pos", "acceptance_neg"))}
    assert signed == {"acceptance_negative_span_3"}


def test_the_tokens_of_all_lags_are_all_tokens():
    found = lag_statistics(LAGS, MASK, MASK, torch.ones(4, 4))
    assert found["tokens"].shape == (4, NUM_LAGS)
    for name in ("tokens", "kept", "kl"):
        assert found[name].sum(dim=-1).tolist() == MASK.sum(dim=-1).tolist()
    assert found["lag"].tolist() == [1, 3, 0, -1]
    assert replace(batch(), lags=None).rows(slice(0, 1)).lags is None


def test_a_span_begins_at_the_newest_token_whatever_its_lag():
    lags, mask = torch.tensor([[5, 4, -1, 3], [2, -1, -1, 2]]), torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1]]).bool()
    found = lag_statistics(lags, mask, mask, torch.ones(2, 4))
    assert found["span"].tolist() == [2, 0]
    assert found["lag"].tolist() == [3, 2]
