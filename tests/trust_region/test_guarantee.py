import pytest
from omegaconf import OmegaConf

from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.guarantee import lost_guarantee, told_guarantee
from trm_agent.trust_region.settings import TrmConfig

WITHOUT_PREMISE = {"token", "stop", "stop_cumulative"}


def test_the_criteria_of_contexts_have_a_guarantee_without_a_premise():
    assert {name for name, row in CRITERIA.items() if row.without_premise} == WITHOUT_PREMISE


@pytest.mark.parametrize("name", sorted(WITHOUT_PREMISE))
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"estimator": "sampled"}, "(exact, topk and replayed decide by the context)"),
        ({"estimator": "topk", "undecided": "accept"}, "undecided=accept keeps contexts that may be outside"),
        # of a kept set that may be cut nothing is known
        ({"estimator": "replayed", "undecided": "accept"}, "undecided=accept keeps contexts that may be outside"),
        ({"mask_policy": "start_of_step"}, "mask_policy=start_of_step measures a policy that the step has left"),
        ({"estimator": "exact", "ratio_truncation": 2.0}, "ratio_truncation changes the surrogate"),
        ({"estimator": "exact", "decoupled": True}, "decoupled changes the surrogate"),
    ],
)
def test_settings_that_take_it_away_are_named_with_those_that_do_not(name, settings, words):
    assert words in lost_guarantee(TrmConfig(criterion=name, **settings))


@pytest.mark.parametrize("estimator", ["topk", "exact", "replayed"])
def test_divergences_of_contexts_keep_it(estimator):
    for name in WITHOUT_PREMISE:
        assert lost_guarantee(TrmConfig(criterion=name, estimator=estimator)) is None


def test_criteria_that_have_none_are_not_warned_about():
    for name in CRITERIA.keys() - WITHOUT_PREMISE - {"permuted"}:
        assert lost_guarantee(TrmConfig(criterion=name)) is None


@pytest.mark.parametrize(
    ("loss", "begins"),
    [
        ({"loss_mode": "trm", "trm": {"criterion": "stop"}}, "warning: criterion=stop is without its guarantee here: "),
        ({"loss_mode": "trm", "trm": {"criterion": "stop", "estimator": "exact"}}, ""),
        ({"loss_mode": "trm", "trm": {"criterion": "max"}}, ""),
        ({"loss_mode": "vanilla"}, ""),
    ],
)
def test_a_run_is_told_before_it_starts(loss, begins):
    told = told_guarantee(OmegaConf.create({"actor_rollout_ref": {"actor": {"policy_loss": loss}}}))
    assert told.startswith(begins)
    assert bool(told) == bool(begins)
