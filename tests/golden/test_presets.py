"""Every preset composes, and composed configurations are what they were, but for dotted names."""

from typing import Any

import pytest

from tests.golden import presets, stored
from trm_agent.runs.compose import choices

GOLDEN = presets.current(stored.read("presets"))


def assert_equal(found: dict[str, Any]) -> None:
    for name, fields in presets.current(found).items():
        if name not in GOLDEN:
            # a preset that came later has no past
            continue
        differing = presets.differences(GOLDEN[name], fields)
        told = {field: (GOLDEN[name].get(field, presets.ABSENT), value) for field, value in differing.items()}
        assert not told, f"{name}: field: (golden, now): {told}; see tests/golden/make.py"


def names_beside(experiment: str, group: str) -> set[str]:
    """The names that an experiment has beside each choice of a group, also one that came later."""
    configs = [presets.config_of(f"experiment={experiment}", f"{group}={name}") for name in choices(group)]
    return {config.trainer.experiment_name for config in configs}


def test_the_default_is_what_it_was() -> None:
    assert_equal({f"experiment={presets.DEFAULT}": presets.default()})


def test_suites_are_what_they_were() -> None:
    assert_equal(presets.suites())


@pytest.mark.slow
def test_experiments_are_what_they_were() -> None:
    assert_equal(presets.experiments())


@pytest.mark.slow
@pytest.mark.parametrize("experiment", presets.LOSSES_OF)
def test_policy_losses_are_what_they_were_and_leave_the_experiments_name(experiment: str) -> None:
    assert_equal(presets.losses(experiment))
    assert names_beside(experiment, "policy_loss") == {experiment}


@pytest.mark.slow
def test_other_groups_are_what_they_were_and_name_runs_after_experiment_or_environment() -> None:
    assert_equal(presets.other_groups())
    for group in presets.GROUPS_OF_DEFAULT:
        # a run is named after its environment
        own = {presets.DEFAULT} | ({*choices("env")} - {"chain_math", "custom"} if group == "env" else set())
        assert names_beside(presets.DEFAULT, group) == own


def test_no_preset_is_gone_and_none_is_new_but_a_policy_loss() -> None:
    assert GOLDEN.keys() <= presets.names()
    # a new criterion brings its preset, and no golden file
    new = {name for name in presets.names() - GOLDEN.keys() if " policy_loss=" not in name}
    assert not new, f"{sorted(new)}: run tests/golden/make.py presets"
