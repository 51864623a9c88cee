"""benchmarks/stale_masks.py: what its rules keep, how old its data are, and what its runs show."""

import copy
import statistics

import pytest
import torch

from benchmarks import stale_masks
from benchmarks.stale_masks import RULES, Setting, rate_of, sampled_from, train, update, warmed_up
from trm_agent.core.token_batch import TokenBatch


@pytest.fixture(scope="module")
def starts() -> list[torch.nn.Module]:
    return [warmed_up(seed) for seed in range(2)]


def batch(log_ratio: list[list[float]], advantages: list[float]) -> TokenBatch:
    rows = torch.tensor(log_ratio)
    return TokenBatch(
        rows,
        torch.zeros_like(rows),
        torch.tensor(advantages).unsqueeze(-1).expand(rows.shape),
        torch.ones_like(rows) > 0,
    )


def test_max_rejects_what_inward_and_directional_reject_together():
    # k2 is above 0.05 where |log rho| is above 0.316; the rows: inside, out and up, out and down, both, by each sign
    rows = [[0.1, 0.0], [0.5, 0.0], [-0.5, 0.0], [0.5, -0.5]] * 2
    given = batch(rows, [1.0] * 4 + [-1.0] * 4)
    kept = {name: RULES[name](given, torch.Generator())[:, 0].tolist() for name in ("max", "directional", "inward")}
    assert kept["directional"] == [True, False, True, False, True, True, False, False]
    assert kept["inward"] == [True, True, False, False, True, False, True, False]
    assert kept["max"] == [first and second for first, second in zip(kept["directional"], kept["inward"], strict=True)]


def test_permuted_keeps_as_many_of_each_sign():
    torch.manual_seed(0)
    given = batch((torch.randn(60, 4) * 0.2).tolist(), [1.0, -1.0] * 30)
    generator = torch.Generator().manual_seed(0)
    inside, kept = (RULES[name](given, generator)[:, 0] for name in ("max", "permuted"))
    assert 0 < inside.sum() < 60
    assert (inside != kept).any()
    for sign in (0, 1):
        assert inside[sign::2].sum() == kept[sign::2].sum()


def test_data_are_as_old_as_the_setting_says(starts, monkeypatch):
    sampled, trained = [], []

    def spy_sample(policy, *given):
        sampled.append(copy.deepcopy(policy.state_dict()))
        return sampled_from(policy, *given)

    def spy_update(model, *given):
        trained.append(copy.deepcopy(model.state_dict()))
        return update(model, *given)

    monkeypatch.setattr(stale_masks, "sampled_from", spy_sample)
    monkeypatch.setattr(stale_masks, "update", spy_update)
    train(starts[0], "none", Setting(steps=6, lag=1), 0)

    def same(first, second):
        return all(torch.equal(first[name], second[name]) for name in first)

    # two updates a step: step s samples with the policy that step s - 1 began with, the first two steps with the start
    for place, policy in enumerate(sampled):
        step = place // 2 + 1
        assert same(policy, trained[2 * max(0, step - 2)])
    assert not same(sampled[4], trained[4])


def test_advantages_of_a_group_add_up_to_nothing_and_a_reward_needs_all_decisions(starts):
    data = sampled_from(starts[0], 40, torch.Generator().manual_seed(1))
    groups = data.advantages[:, 0].view(-1, stale_masks.GROUP)
    assert groups.sum(-1).abs().max() < 1e-4
    right = ((data.choices == data.tasks.right) | ~data.tasks.asked).all(-1).view(-1, stale_masks.GROUP)
    mixed = right.any(-1) & ~right.all(-1)
    assert mixed.any()
    assert (groups[mixed] > 0).equal(right[mixed])


def test_the_rate_warms_up_and_ends_at_nothing():
    setting = Setting(rate=1.0, steps=20)
    rates = [rate_of(step, setting) for step in range(1, 21)]
    # half way down the cosine at 12.5
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert (rates[11] + rates[12]) / 2 == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.0)


def test_what_the_update_would_bring_back_must_stay(starts):
    def after(rule):
        return statistics.fmean(train(start, rule, Setting(), seed).success[-1] for seed, start in enumerate(starts))

    # over 24 seeds 0.53, 0.30 and 0.19, each with a standard deviation of about 0.05
    directional, whole, inward = after("directional"), after("max"), after("inward")
    assert directional > whole + 0.1
    assert whole > inward + 0.02
