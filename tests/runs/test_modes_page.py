"""The table of docs/asynchronous.md on what a mode takes: every setting in it is composed and checked in every mode."""

import functools
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.compose import compose_run
from trm_agent.runs.preflight_async import COLOCATE, STRATEGY, SYNC, THRESHOLD, UNSERVED, warmup_of
from trm_agent.runs.preflight_sampling import SAMPLING_RULES
from trm_agent.runs.preflight_separate import BACKEND, OWN, TIMEOUT
from trm_agent.runs.preflight_training import TRAINING_RULES
from trm_agent.runs.preflight_verl import refusals, weight_transfer
from trm_agent.runs.rollout_pool import SEPARATE
from trm_agent.runs.verl_choices import BACKENDS

PAGE = Path(__file__).parents[2] / "docs/asynchronous.md"
PRESETS = {SYNC: "math_nano", COLOCATE: "math_nano_async", SEPARATE: "math_nano_separate"}
RULES = (weight_transfer, *TRAINING_RULES, *SAMPLING_RULES, refusals)
ACCEPTED, REFUSED = "accepted", "refused"


def told() -> list[tuple[str, str, str]]:
    """Setting, mode and what the page says of the two; a setting may have several fields, with spaces between them."""
    section = PAGE.read_text(encoding="utf-8").split("## Which settings a mode takes\n")[1].split("\n## ")[0]
    head, _, *rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    modes = [cell.strip(" `") for cell in head[1:-1]]
    return [
        (setting, mode, cell.strip())
        for first, *cells, _ in rows
        for setting in re.findall(r"`([^`]+)`", first)
        for mode, cell in zip(modes, cells, strict=True)
    ]


@functools.cache
def preset(mode: str) -> DictConfig:
    return compose_run([f"experiment={PRESETS[mode]}"])


def refused(mode: str, setting: str) -> str | None:
    """The field that is refused in a mode's preset with a setting; None for none."""
    config = preset(mode).copy()
    for override in setting.split():
        field, _, value = override.lstrip("+").partition("=")
        OmegaConf.update(config, field, yaml.safe_load(value), force_add=True)
    try:
        for rule in RULES:
            rule(config)
    except ValueError as error:
        return str(error).partition(":")[0]
    return None


@pytest.mark.parametrize("mode", PRESETS)
def test_the_presets_alone_are_accepted(mode):
    assert refused(mode, "") is None


@pytest.mark.parametrize(("setting", "mode", "said"), told())
def test_a_mode_takes_a_setting_or_refuses_it_as_the_page_says(setting, mode, said):
    assert said in (ACCEPTED, REFUSED)
    found = refused(mode, setting)
    if said == ACCEPTED:
        assert found is None
    else:
        # for what it sets, and not for something that it brings about
        assert found in [override.lstrip("+").partition("=")[0] for override in setting.split()]


def test_the_page_has_every_field_on_which_the_modes_differ():
    rows = told()
    assert {mode for _, mode, _ in rows} == set(PRESETS)
    fields = {override.lstrip("+").partition("=")[0] for setting, _, _ in rows for override in setting.split()}
    needed = {*OWN, BACKEND, TIMEOUT, THRESHOLD, STRATEGY, *(warmup_of(preset(mode)) for mode in (COLOCATE, SEPARATE))}
    assert needed - fields == set()
    settings = {setting for setting, _, _ in rows}
    assert {f"{BACKEND}={name}" for name in BACKENDS.names} <= settings
    assert {f"algorithm.adv_estimator={name}" for name in UNSERVED} <= settings
