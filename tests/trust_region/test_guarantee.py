import itertools
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.criterion import OF_CONTEXTS, WITH_BOUNDS
from trm_agent.trust_region.criterion_bounds import CRITERION_BOUNDS
from trm_agent.trust_region.guarantee import lost_guarantee, told_guarantee, told_selection
from trm_agent.trust_region.settings import ESTIMATORS, UNDECIDED, TrmConfig

NORM = "seq-mean-token-sum-norm"
WITHOUT_PREMISE = {"token", "stop", "stop_cumulative"}
# what docs/math.md has a bound for
WITH_ONE = WITHOUT_PREMISE | {"max", "avg", "both", "ln", "ser", "prefix_avg"}
PAGE = Path(__file__).parents[2] / "docs" / "criteria.md"
MATH = PAGE.with_name("math.md")


def lost(criterion: str, loss_agg_mode: str = NORM, **settings) -> str | None:
    return lost_guarantee(TrmConfig(criterion=criterion, **settings), loss_agg_mode)


def promises() -> dict[str, tuple[str, str]]:
    """Criterion -> what the page promises of it, and which settings give that."""
    table = PAGE.read_text(encoding="utf-8").split("| criterion | keeps | guarantee | given by |")[1].split("\n\n")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines() if line.startswith("| `")]
    return {re.findall(r"`(\w+)`", row[0])[0]: (row[2].strip(), row[3].strip()) for row in rows}


def test_the_criteria_with_a_bound_have_a_guarantee_and_those_of_contexts_have_it_without_a_premise():
    assert {name for name, row in CRITERIA.items() if row.guarantee} == WITH_ONE
    assert CRITERION_BOUNDS.keys() <= WITH_ONE
    assert {name for name, row in CRITERIA.items() if row.without_premise} == WITHOUT_PREMISE
    assert {*OF_CONTEXTS, "sampled"} == set(ESTIMATORS)


def test_the_page_promises_what_the_table_has():
    assert WITH_ONE < promises().keys() < CRITERIA.keys()
    for name, (guarantee, _) in promises().items():
        assert guarantee.startswith("none") == (CRITERIA[name].guarantee is None), name
        assert ("*without a premise*" in guarantee) == CRITERIA[name].without_premise, name
        assert (" if " in guarantee) == (name in WITH_ONE - WITHOUT_PREMISE), name


@pytest.mark.parametrize("name", sorted(WITH_ONE))
def test_the_page_names_the_estimators_that_give_a_guarantee_and_a_run_with_another_is_told(name):
    given_by = promises()[name][1]
    pairs = set(itertools.product(ESTIMATORS, UNDECIDED))
    kept = {(estimator, rule) for estimator, rule in pairs if not lost(name, estimator=estimator, undecided=rule)}
    if given_by.startswith("any"):
        assert kept == pairs
        return
    # of a certified interval, and of a kept set that may be cut, one rule alone lets nothing in that may be outside
    assert given_by.startswith("`exact`, `topk` or `replayed` with `undecided=reject`")
    assert kept == {("exact", "reject"), ("exact", "accept"), ("topk", "reject"), ("replayed", "reject")}


@pytest.mark.parametrize(
    ("sentence", "estimators"),
    [
        (r"With (.+) and `undecided=reject`, no\s+sampled context of an accepted\s+sequence is outside", OF_CONTEXTS),
        (r"With (.+), a sequence is accepted if the upper bound of its statistic is inside", WITH_BOUNDS),
    ],
)
def test_the_mathematics_names_the_same_estimators(sentence, estimators):
    (named,) = re.findall(sentence, MATH.read_text(encoding="utf-8"))
    assert set(re.findall(r"`(\w+)`", named)) == set(estimators)


@pytest.mark.parametrize("name", sorted(WITH_ONE))
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mask_policy": "start_of_step"}, "mask_policy=start_of_step measures a policy that the step has left"),
        ({"estimator": "exact", "ratio_truncation": 2.0}, "ratio_truncation changes the surrogate"),
        ({"estimator": "exact", "decoupled": True}, "decoupled changes the surrogate"),
        (
            {"estimator": "exact", "loss_agg_mode": "seq-mean-token-mean"},
            "loss_agg_mode=seq-mean-token-mean divides by a length that the drawn tokens decide "
            "(seq-mean-token-sum-norm, seq-mean-token-sum and token-sum do not)",
        ),
    ],
)
def test_settings_that_take_it_away_are_named_with_those_that_do_not(name, settings, words):
    assert words in lost(name, **settings)


def test_a_token_that_decides_is_named_with_the_page():
    drawn = "estimator=sampled decides by the drawn token (exact, topk and replayed decide by the context)"
    assert lost("stop") == f"criterion=stop is without its guarantee here: {drawn}; see docs/criteria.md"
    assert lost("max") == f"criterion=max is without its guarantee here: {drawn}; see docs/criteria.md"
    both = lost("both", estimator="topk", undecided="accept", ratio_truncation=2.0)
    assert "undecided=accept keeps contexts that may be outside (reject does not); ratio_truncation" in both


@pytest.mark.parametrize("name", sorted(WITH_ONE))
@pytest.mark.parametrize(
    ("field", "comparing"),
    [
        ("max_estimator", {"max", "both", "token", "stop"}),
        ("avg_estimator", {"avg", "both", "prefix_avg", "stop_cumulative"}),
    ],
)
def test_a_divergence_that_is_no_kl_is_named_where_the_criterion_compares_it(name, field, comparing):
    told = f"{field}=abs_log_ratio is no KL, and every bound needs one (k2 and k3 are estimates)"
    assert (told in (lost(name, **{field: "abs_log_ratio"}) or "")) == (name in comparing)
    assert "is no KL" not in (lost(name, **{field: "k3"}) or "")
    assert lost(name, estimator="exact", **{field: "abs_log_ratio"}) is None


@pytest.mark.parametrize("name", sorted(CRITERIA.keys() - WITH_ONE))
def test_criteria_that_have_none_are_told_of_nothing(name):
    # the coins look at no policy
    settings = {} if name in ("random", "yoked") else {"mask_policy": "start_of_step"}
    assert lost(name, "seq-mean-token-mean", ratio_truncation=2.0, **settings) is None


@pytest.mark.parametrize(
    ("loss", "mode", "begins"),
    [
        ({"loss_mode": "trm", "trm": {"criterion": "stop"}}, NORM, "warning: criterion=stop is without its guarantee"),
        ({"loss_mode": "trm", "trm": {"criterion": "stop", "estimator": "exact"}}, NORM, ""),
        ({"loss_mode": "trm", "trm": {"criterion": "stop", "estimator": "exact"}}, "seq-mean-token-mean", "warning: "),
        # the default of a run: no settings show its premise
        ({"loss_mode": "trm", "trm": {"criterion": "max"}}, NORM, "note: criterion=max is without its guarantee here"),
        ({"loss_mode": "trm", "trm": {"criterion": "max", "estimator": "exact"}}, NORM, ""),
        ({"loss_mode": "trm", "trm": {"criterion": "directional"}}, NORM, ""),
        ({"loss_mode": "vanilla"}, "seq-mean-token-mean", ""),
    ],
)
def test_a_run_is_told_before_it_starts(loss, mode, begins):
    actor = {"policy_loss": loss, "loss_agg_mode": mode}
    told = told_guarantee(OmegaConf.create({"actor_rollout_ref": {"actor": actor}}))
    assert told.startswith(begins)
    assert bool(told) == bool(begins)
    assert "\n" not in told


@pytest.mark.parametrize(
    ("loss_mode", "sections", "selected_by"),
    [
        ("trm", {"env": {"overlong": {"treatment": "mask"}}}, "env.overlong.treatment=mask"),
        ("trm", {"algorithm": {"filter_groups": {"enable": True}}}, "algorithm.filter_groups.enable=true"),
        ("trm", {"env": {"overlong": {"treatment": "penalty"}}}, ""),
        ("trm", {}, ""),
        # no bound is logged
        ("vanilla", {"env": {"overlong": {"treatment": "mask"}}}, ""),
    ],
)
def test_a_run_that_leaves_episodes_out_is_told_of_what_its_bounds_are(loss_mode, sections, selected_by):
    policy_loss = {"actor": {"policy_loss": {"loss_mode": loss_mode}}}
    told = told_selection(OmegaConf.create({"actor_rollout_ref": policy_loss, **sections}))
    assert bool(told) == bool(selected_by)
    assert told.startswith(f"note: {selected_by} leaves episodes out for how they went: bound_stop" if told else "")
    assert "\n" not in told
