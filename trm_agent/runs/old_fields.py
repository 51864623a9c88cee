"""Fields of older runs: what it meant that a field was absent, and defaults that have changed.

A field that an older config.yaml lacks counts as its default of today. To add an exception:

- `MEANT`: the older code did something else than today's default, such as a fixed value of what is now found out;
- `OLD_DEFAULTS`: a field that has another default now; the older one counts as today's, so that the same command
  resumes. Leave out a default that decides what is learned: such a run must be refused.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from trm_agent.trust_region.settings import DUMP_PATH, FIELD_PATH, DumpConfig, TrmConfig

# field -> the value that the code used before there was a field
MEANT: dict[str, Any] = {
    "env.chat.roles": ["tool", "user"],
    "env.kwargs.protocol": "hermes",
    "nano.env_kwargs.protocol": "hermes",
}
# field -> earlier defaults
OLD_DEFAULTS: dict[str, tuple[Any, ...]] = {
    # how long something broken may take; nothing that is learned
    "env.limits.step_timeout_s": (20,),
    "env.limits.generate_timeout_s": (300,),
    "env.limits.episode_timeout_s": (600, 3600),
}
# sections whose defaults are those of a dataclass, whatever preset was chosen
_DATACLASSES: dict[str, type] = {FIELD_PATH: TrmConfig, DUMP_PATH: DumpConfig}


def canonical(field: str) -> str:
    """Return the field that a user sets: verl's `data.env` repeats `env`."""
    return field.removeprefix("data.") if field.startswith("data.env.") else field


def default_of_dataclass(field: str) -> tuple[bool, Any]:
    """Whether a dataclass of ours owns the default of a field, and that default."""
    section, _, name = field.rpartition(".")
    for item in fields(_DATACLASSES[section]) if section in _DATACLASSES else ():
        if item.name == name and item.default is not MISSING:
            return True, item.default
    return False, None
