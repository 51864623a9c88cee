"""The metrics of a step with several updates: a mean stays a mean, whatever its name contains."""

import math

import pytest

pytest.importorskip("verl")

import torch
from verl.trainer.ppo.v1.utils import MetricsAggregator

from trm_agent.core.ratios import each_update, ratio
from trm_agent.trust_region.adaptive import TARGET_THRESHOLDS
from trm_agent.verl_plugin.actor.ratios import Ratios, ratios_of
from trm_agent.verl_plugin.driver import actor_update
from trm_agent.verl_plugin.driver.async_buffer import EVICTED, EVICTED_BY_LENGTH
from trm_agent.verl_plugin.driver.separate import SeparateMixin
from trm_agent.verl_plugin.driver.several_updates import LAST, THRESHOLDS, over_updates

FIRST = {
    "trm/acceptance": 0.5,
    "trm/rejected_by_max": 0.5,
    "trm/seq_max_kl_p50": 0.25,
    "trm/max_kl_position": 10.0,
    "trm/ratio_min": 0.5,
    "trm/ratio_max": 2.0,
    "trm/token_kl_max": 0.125,
    "trm/acceptance_lag_1": 0.25,
    "env/groups_without_baseline": 1.0,
    "run/stale_wait_s": 3.0,
    "actor/grad_norm": 1.0,
}
SECOND = {
    "trm/acceptance": 1.0,
    "trm/rejected_by_max": 0.0,
    "trm/seq_max_kl_p50": 0.75,
    "trm/max_kl_position": 20.0,
    "trm/ratio_min": 0.75,
    "trm/ratio_max": 1.5,
    "trm/token_kl_max": 0.5,
    "env/groups_without_baseline": 2.0,
    "run/stale_wait_s": 4.0,
    "actor/grad_norm": 3.0,
}
STEP = {
    "trm/acceptance": 0.75,
    "trm/rejected_by_max": 0.25,
    "trm/seq_max_kl_p50": 0.5,
    "trm/max_kl_position": 15.0,
    "trm/ratio_min": 0.5,
    "trm/ratio_max": 2.0,
    "trm/token_kl_max": 0.5,
    # without sums there is no telling how many it is of
    "trm/acceptance_lag_1": 0.25,
    "env/groups_without_baseline": 3.0,
    "run/stale_wait_s": 7.0,
}


class Base:
    """verl's trainer, as far as it matters here: its own aggregation of a step."""

    parameter_sync_step = 2

    def step(self, metrics, timing_raw):
        aggregator = MetricsAggregator()
        for number in range(self.parameter_sync_step):
            of_update: dict = {}
            self._step_once(of_update, timing_raw, number)
            aggregator.add_step_metrics(of_update, sample_count=8)
        metrics.update(aggregator.get_aggregated_metrics())
        return "batch"

    def _step_once(self, metrics, timing_raw, number):
        metrics.update((FIRST, SECOND)[number])
        return number


class Trainer(SeparateMixin, Base):
    pass


def test_a_step_has_means_where_verl_takes_maxima():
    verls: dict = {}
    Base().step(verls, {})
    # so the test would notice that verl's own is right
    assert verls["trm/rejected_by_max"] == 0.5
    found: dict = {}
    assert Trainer().step(found, {}) == "batch"
    assert {name: found[name] for name in STEP} == STEP
    assert found["trm/acceptance"] + found["trm/rejected_by_max"] == 1
    # verl's own metrics are as they were
    assert found["actor/grad_norm"] == verls["actor/grad_norm"] == 2.0


def test_every_step_begins_anew():
    trainer = Trainer()
    for _ in range(2):
        found: dict = {}
        trainer.step(found, {})
        assert found["run/stale_wait_s"] == 7.0


def test_one_update_is_the_step():
    assert over_updates([FIRST]) == {name: value for name, value in FIRST.items() if not name.startswith("actor/")}
    assert over_updates([]) == {}


def test_thresholds_that_adapt_and_what_is_counted_over_the_step_are_those_of_the_last_update():
    names = sorted(LAST)
    assert set(TARGET_THRESHOLDS.values()) < THRESHOLDS
    assert "trm/max_token_kl" in THRESHOLDS
    assert {EVICTED, *EVICTED_BY_LENGTH} == LAST - THRESHOLDS
    updates = [{name: float(number) for name in names} for number in (3, 1, 2)]
    assert over_updates(updates) == dict.fromkeys(names, 2.0)


def test_numbers_of_torch_are_numbers():
    assert over_updates([{"trm/x_max": torch.tensor(1.0)}, {"trm/x_max": 2.0}]) == {"trm/x_max": 1.5}


def of(**numbers: tuple[float, float]) -> Ratios:
    return ratios_of({name: ratio(*map(torch.tensor, pair)) for name, pair in numbers.items()})


# 100 sequences of span 0; then one of span 0 and 99 of span 1, of which 33 stay
SUMS = (
    of(sequences_span_0=(100, 100), sequences_span_1=(0, 100), acceptance_span_0=(50, 100), acceptance_span_1=(0, 0)),
    of(sequences_span_0=(1, 100), sequences_span_1=(99, 100), acceptance_span_0=(1, 1), acceptance_span_1=(33, 99)),
)


class Counting(Base):
    """A trainer whose updates leave their sums, as `with_trust_region` does."""

    def _step_once(self, metrics, timing_raw, number):
        metrics.update({f"trm/{name}": value for name, value in SUMS[number].numbers().items()})
        setattr(self, actor_update._RATIOS, SUMS[number])


class CountingTrainer(SeparateMixin, Counting):
    pass


def test_shares_of_a_step_add_up_to_1_and_a_mean_counts_each_sequence_once():
    trainer, found = CountingTrainer(), {}
    trainer.step(found, {})
    assert found == pytest.approx(
        {
            "trm/sequences_span_0": 101 / 200,
            "trm/sequences_span_1": 99 / 200,
            "trm/acceptance_span_0": 51 / 101,
            "trm/acceptance_span_1": 1 / 3,
        }
    )
    # else a step without an update of the actor would tell of the one before
    assert actor_update.take_ratios(trainer) == Ratios()


def test_a_term_of_a_sum_has_a_mean_over_all_updates_with_that_sum_and_is_absent_where_there_is_none():
    sums = [
        ratios_of(
            {"contribution_positive": each_update(torch.tensor(term), torch.tensor(tokens), torch.tensor(counts))}
        )
        # an update without tokens of the sign, and one without a finite sequence
        for term, tokens, counts in ((0.3, 30, True), (0.0, 0, True), (math.nan, 0, False))
    ]
    assert over_updates([{}, {}, {}], sums) == {"trm/contribution_positive": pytest.approx(0.15)}
    assert over_updates([{}], sums[1:2]) == over_updates([{}], sums[2:]) == {}
