"""Composed configurations of all presets: the default as a whole, the others as their differences from another one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

from omegaconf import DictConfig

from trm_agent.evaluate.suites import read_suite, suite_names
from trm_agent.runs.compose import choices, compose_run, plain
from trm_agent.runs.old_names import with_current_names
from trm_agent.runs.stored_config import flatten

DEFAULT = "math_nano"
# the other experiments differ from these two in nothing that a policy loss sets
LOSSES_OF = ("math_nano", "math_qwen3_8b")
GROUPS_OF_DEFAULT = ("env", "model", "hardware")
ABSENT = "(absent)"


@functools.cache
def config_of(*overrides: str) -> DictConfig:
    """A composed configuration, for a machine without a GPU; copy it before you change it."""
    with patch("trm_agent.runs.planning.machine.read_gpus", lambda: ([], "")):
        return compose_run(overrides)


@functools.cache
def composed(*overrides: str) -> dict[str, Any]:
    """The same as dotted field -> value."""
    return flatten(plain(config_of(*overrides)))


def differences(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        field: other.get(field, ABSENT)
        for field in base.keys() | other.keys()
        if base.get(field, ABSENT) != other.get(field, ABSENT)
    }


def default() -> dict[str, Any]:
    return composed(f"experiment={DEFAULT}")


def experiments() -> dict[str, Any]:
    names = [name for name in choices("experiment") if name != DEFAULT]
    return {f"experiment={name}": differences(default(), composed(f"experiment={name}")) for name in names}


def losses(experiment: str) -> dict[str, Any]:
    own = composed(f"experiment={experiment}")
    return {
        f"experiment={experiment} policy_loss={name}": differences(
            own, composed(f"experiment={experiment}", f"policy_loss={name}")
        )
        for name in choices("policy_loss")
    }


def other_groups() -> dict[str, Any]:
    found = {}
    for group in GROUPS_OF_DEFAULT:
        for name in choices(group):
            overrides = (f"experiment={DEFAULT}", f"{group}={name}")
            found[" ".join(overrides)] = differences(default(), composed(*overrides))
    return found


def suites() -> dict[str, Any]:
    return {f"suite={name}": flatten(read_suite(name)) for name in suite_names()}


def names() -> set[str]:
    """The names of all presets, without composing any."""
    default = f"experiment={DEFAULT}"
    return {
        *(f"experiment={name}" for name in choices("experiment")),
        *(f"experiment={name} policy_loss={loss}" for name in LOSSES_OF for loss in choices("policy_loss")),
        *(f"{default} {group}={name}" for group in GROUPS_OF_DEFAULT for name in choices(group)),
        *(f"suite={name}" for name in suite_names()),
    }


def all_presets() -> dict[str, Any]:
    found = {f"experiment={DEFAULT}": default(), **experiments(), **other_groups(), **suites()}
    for experiment in LOSSES_OF:
        found |= losses(experiment)
    return found


def current(presets: Mapping[str, Any]) -> dict[str, Any]:
    """Presets with the dotted names of today."""
    return with_current_names(dict(presets))
