"""Find the defaults of fields that a user has set on the command line."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from trm_agent.runs.compose import GROUPS, compose_run, plain
from trm_agent.runs.stored_config import ABSENT, Defaults, flatten


def defaults_of(overrides: Sequence[str]) -> Defaults:
    """Look up defaults for `config_differences`: the configuration without the overrides of the fields in question.

    Args:
        overrides: overrides of the command line.
    """

    def defaults(fields: Collection[str]) -> Mapping[str, Any]:
        named = [field for field in fields if any(_sets(override, field) for override in overrides)]
        if not named:
            return {}
        others = [override for override in overrides if not any(_sets(override, field) for field in named)]
        composed = flatten(plain(compose_run(others)))
        return {field: composed.get(field, ABSENT) for field in named}

    return defaults


def _sets(override: str, field: str) -> bool:
    key = override.partition("=")[0].lstrip("+~")
    # a choice of a group, such as env=chain_math, sets no field by name
    return key not in GROUPS and (field == key or field.startswith(f"{key}."))
