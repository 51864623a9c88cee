"""Names of fields on a command line: unknown ones get the closest, and a plus adds only where names are free."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import NoReturn

from trm_agent.runs.schema import all_settings, check_name
from trm_agent.runs.verl_fates import verl_fields
from trm_fields import Free, closest, nearest, refuse

# the open sections that most commands need, for messages
_OFTEN = ("env.kwargs", "hardware.env_vars", "actor_rollout_ref.model.override_config")
_MOST_NAMES = 40
# read by verl's `Tracking`, which a run uses as it is
_OF_TRACKING = ("trainer.wandb_proxy",)


def check_additions(overrides: Sequence[str], groups: Sequence[str]) -> None:
    """Refuse a name after a plus that nothing reads, and fields of Hydra's own.

    Args:
        overrides: of the command line.
        groups: names of the configuration's groups.

    Raises:
        ValueError: the name is no field, and its section takes no names of a user's; the closest name is given.
    """
    for override in overrides:
        field, _, value = override.lstrip("+~").partition("=")
        if re.split(r"[./@:]", field)[0] == "hydra":
            why = "but a command composes its configuration without a job of Hydra's, and nothing reads it"
            refuse(field, value, "fields of a run", "leave it out", because=why)
        if override.startswith("+") and not may_be_added(field):
            check_name(field)
            refuse_unknown(field, groups, added=True)


def may_be_added(field: str) -> bool:
    """Return True if something reads a field that no yaml shows."""
    return field in known_fields() or any(field == name or field.startswith(f"{name}.") for name in open_sections())


@functools.cache
def open_sections() -> tuple[str, ...]:
    """Return the sections whose names are free: verl's, found in its source, and ours."""
    found = verl_fields()
    # sections that a dataclass of verl's holds and no yaml shows
    of_objects = [name for name, kind in found["unlisted"].items() if kind.startswith("any")]
    of_ours = [name for name, item in all_settings().items() if isinstance(item.allowed, Free)]
    return tuple(sorted({*found["open"], *of_objects, *of_ours}))


@functools.cache
def known_fields() -> frozenset[str]:
    """Return every field of verl's and ours."""
    found = verl_fields()
    return frozenset({*found["fields"], *found["unlisted"], *_OF_TRACKING, *all_settings()})


def refuse_unknown(field: str, groups: Sequence[str], added: bool = False) -> NoReturn:
    """Refuse a name that neither verl nor we have.

    Args:
        field: its path as the user wrote it.
        groups: names of the configuration's groups.
        added: whether it was written with a plus.

    Raises:
        ValueError: always; it names the closest field.
    """
    path, siblings = "", sorted({*groups, *(name.partition(".")[0] for name in known_fields())})
    for name in field.split("."):
        path = f"{path}.{name}" if path else name
        if name not in siblings:
            break
        below = {
            known.removeprefix(f"{path}.").partition(".")[0] for known in known_fields() if known.startswith(f"{path}.")
        }
        siblings = sorted(below)
    words = nearest(path.rpartition(".")[2], siblings) or nearest(field, known_fields())
    if not words and len(siblings) <= _MOST_NAMES:
        words = closest(path, siblings)
    why = f"a plus adds names only to sections such as {', '.join(_OFTEN)} (docs/configuration.md lists them)"
    parts = [f"{field}: no such field", *filter(None, (words,)), *([why] if added else [])]
    raise ValueError("; ".join(parts))
