from dataclasses import asdict, fields

import pytest
from omegaconf import OmegaConf

from trm_agent.runs.compose import CONF
from trm_agent.trust_region.settings import CommonConfig, TrmConfig

PATH = "actor_rollout_ref.actor.policy_loss.trm."


def test_defaults_are_the_papers():
    config = TrmConfig()
    assert (config.criterion, config.max_token_kl, config.thresholds) == ("max", 0.05, ("max_token_kl",))
    assert (config.max_estimator, config.avg_estimator, config.ratio_truncation) == ("k2", "k3", None)


def test_a_threshold_that_the_criterion_does_not_use_may_be_null():
    assert TrmConfig(criterion="avg", max_token_kl=None).max_token_kl is None
    assert TrmConfig(criterion="both").thresholds == ("max_token_kl", "avg_token_kl")


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"criterion": "maxx"}, ["criterion", "'maxx'", "did you mean 'max'", "`avg`, `both`"]),
        ({"max_estimator": "k1"}, ["max_estimator", "'k1'", "`k2`, `k3`"]),
        ({"avg_estimator": "k4"}, ["avg_estimator", "'k4'", "`k2`, `k3`"]),
        ({"estimator": "exakt"}, ["estimator", "'exakt'", "did you mean 'exact'"]),
        ({"undecided": "maybe"}, ["undecided", "'maybe'", "`reject`"]),
        ({"top_k": 0}, ["top_k", "0", "1 or more"]),
        ({"top_k": 2.5}, ["top_k", "2.5", "whole"]),
        ({"random_acceptance": 1.2}, ["random_acceptance", "1.2", "at most 1"]),
        ({"decoupled": "yes"}, ["decoupled", "'yes'", "true or false"]),
        ({"criterion": "avg", "target_acceptance": 0.9}, ["target_acceptance", "0.9", "criterion='avg'"]),
        ({"adaptive_floor": 0.9}, ["adaptive_floor", "0.9", "adaptive_cap=0.5"]),
        ({"proximal_clip": 1.0}, ["proximal_clip", "1.0", "below 1"]),
        ({"max_token_kl": 0.0}, ["max_token_kl", "0.0", "above 0"]),
        ({"max_token_kl": -1}, ["max_token_kl", "-1", "above 0"]),
        ({"max_token_kl": "0.05"}, ["max_token_kl", "'0.05'", "without quotes"]),
        ({"max_token_kl": True}, ["max_token_kl", "got true"]),
        ({"avg_token_kl": float("nan")}, ["avg_token_kl", "nan"]),
        ({"avg_token_kl": -0.1}, ["avg_token_kl", "-0.1"]),
        ({"max_token_kl": None}, ["max_token_kl", "null", "criterion='max'"]),
        ({"criterion": "both", "avg_token_kl": None}, ["avg_token_kl", "null", "criterion='both'"]),
        (
            {"criterion": "stop_cumulative", "cumulative_kl": None},
            ["cumulative_kl", "null", "criterion='stop_cumulative'"],
        ),
        ({"opsm_clip": 1.0}, ["opsm_clip", "1.0", "below 1"]),
        ({"criterion": "opsm", "opsm_delta": None}, ["opsm_delta", "null", "criterion='opsm'"]),
        ({"mask_policy": "now"}, ["mask_policy", "'now'", "`current`, `start_of_step`"]),
        ({"mask_policy": "start_of_step", "estimator": "exact"}, ["estimator", "'exact'", "mask_policy=current"]),
        ({"mask_policy": "start_of_step", "criterion": "random"}, ["mask_policy", "'random'", "no divergence"]),
        (
            {"mask_policy": "start_of_step", "criterion": "yoked", "yoked_run": "a"},
            ["mask_policy", "'yoked'", "allowed: current", "bypass_mode=true"],
        ),
        ({"criterion": "negative_only", "target_acceptance": 0.9}, ["target_acceptance", "max or both or directional"]),
        ({"ratio_truncation": 0.5}, ["ratio_truncation", "0.5", "1 or more"]),
        ({"max_token_kll": 0.05}, ["max_token_kll", "no such field", "did you mean 'max_token_kl'"]),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(settings, parts):
    with pytest.raises(ValueError, match="trm") as error:
        TrmConfig.from_mapping(settings)
    message = str(error.value)
    assert message.startswith(PATH + parts[0])
    for part in parts:
        assert part in message


def test_a_mapping_of_hydra_becomes_the_config():
    assert TrmConfig.from_mapping({"_target_": "x", "max_token_kl": 0.1}) == TrmConfig(max_token_kl=0.1)


def test_the_yamls_hold_the_defaults_of_the_dataclass():
    defaults, found = asdict(TrmConfig()), {}
    for path in sorted((CONF / "policy_loss").glob("*.yaml")):
        node = OmegaConf.select(OmegaConf.load(path), "actor_rollout_ref.actor.policy_loss.trm")
        if node is not None:
            found[path.stem] = OmegaConf.to_container(node)
    # verl's tree refuses a field that no yaml of the choice has: `trm` has the common ones, a preset those of its own
    assert {field.name for field in fields(CommonConfig)} <= set(found["trm"])
    assert {name: defaults[name] for name in found["trm"]} == found["trm"]
    for name in defaults.keys() - found["trm"].keys():
        assert any(preset.get(name) == defaults[name] for preset in found.values()), (
            f"{name}: in no yaml of the group policy_loss with its default {defaults[name]}; write it into its preset's"
        )
    assert all(preset.keys() <= defaults.keys() for preset in found.values())
