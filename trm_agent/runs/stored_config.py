"""Read the configuration of a run folder, and compare it with another one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from trm_agent.runs.data_text import read_json, read_yaml
from trm_agent.runs.old_fields import MEANT, OLD_DEFAULTS, canonical, default_of_dataclass
from trm_agent.runs.old_names import unknown_names, with_current_names
from trm_agent.trust_region.settings import DUMP_PATH

CONFIG_FILE = "config.yaml"
GIT_FILE = "git.json"
# a run may be found at another place, and under another name, than it began at
PLACES = (
    "run.experiment",
    "run.dir", "run.root", "run.name", "trainer.default_local_dir", "trainer.experiment_name", f"{DUMP_PATH}.directory",
)  # fmt: skip
_RESUME_MODE = "trainer.resume_mode"
ABSENT = "(absent)"
# field -> its value in the stored and in today's configuration
Changes = Mapping[str, tuple[Any, Any]]
# fields -> those of them that the user has set, with their defaults
Defaults = Callable[[Collection[str]], Mapping[str, Any]]


class UnknownVersion(ValueError):
    """This version cannot read a config.yaml as the configuration of a run."""


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of a run folder, with the dotted names of today.

    Raises:
        UnknownVersion: it is not the configuration of a run, or it names something of ours that does not exist; the
            message names the missing part and the command that brings it.
    """
    try:
        stored = read_yaml((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnknownVersion(f"its {CONFIG_FILE} cannot be read ({error}); {_remedy(path)}") from error
    if not isinstance(stored, dict) or not isinstance(stored.get("run"), dict):
        raise UnknownVersion(f"its {CONFIG_FILE} lacks the section `run`, so it is not a training's; {_remedy(path)}")
    stored = with_current_names(stored)
    unknown = unknown_names(stored)
    if unknown:
        told = ", ".join(f"{field}: {name}" for field, name in sorted(unknown.items()))
        raise UnknownVersion(
            f"its {CONFIG_FILE} is of an unknown version: it names what is not in this one ({told}); {_remedy(path)}"
        )
    return stored


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any], defaults: Defaults | None = None) -> list[str]:
    """Return `differing` as `field: old -> new`."""
    return [f"{field}: {before} -> {after}" for field, (before, after) in differing(old, new, defaults).items()]


def shown_changes(changes: Changes, most: int = 5) -> str:
    """Format the first differences of two configurations."""
    shown = [f"{field}: {old} -> {new}" for field, (old, new) in list(changes.items())[:most]]
    return "; ".join(shown) + (f"; and {len(changes) - most} more" if len(changes) > most else "")


def resume_mode(config: Mapping[str, Any]) -> str:
    """Return verl's `trainer.resume_mode`."""
    return str(config.get("trainer", {}).get("resume_mode") or "auto")


def differing(old: Mapping[str, Any], new: Mapping[str, Any], defaults: Defaults | None = None) -> Changes:
    """Compare two configurations, except for their places on disk.

    Args:
        old: configuration of a stored run.
        new: configuration of today's command.
        defaults: takes the fields in question, and returns the defaults of those that the user has set. If it is
            given, a field that `old` lacks counts as its default, and an earlier default as today's.

    Returns:
        The fields in which they differ, in alphabetical order.
    """
    left, right = (_meant(flatten(with_current_names(each))) for each in (old, new))
    if defaults is not None:
        left = _filled(left, right, defaults)
    for one, other in ((left, right), (right, left)):
        for key in [key for key, value in one.items() if value == {} and key not in other]:
            # an empty section: its fields, if the other has any, are compared one by one
            if any(each.startswith(f"{key}.") for each in other):
                del one[key]
    return {
        key: (left.get(key, ABSENT), right.get(key, ABSENT))
        for key in sorted(left.keys() | right.keys())
        # null means the same as an absent field
        if key not in PLACES and left.get(key) != right.get(key)
    }


def absent_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the fields that a stored configuration lacks, except those whose absence has a meaning of its own."""
    missing = flatten(new).keys() - flatten(old).keys()
    return sorted({canonical(field) for field in missing} - MEANT.keys() - set(PLACES))


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return a configuration as dotted field -> value."""
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
        return flat or {prefix: {}}
    return {prefix: value}


def _meant(flat: dict[str, Any]) -> dict[str, Any]:
    if flat.get(_RESUME_MODE) == "disable":
        # they tell whether an older run is looked for, and a run that has begun is the same
        flat = {**flat, _RESUME_MODE: "auto"}
    return {**MEANT, **{f"data.{field}": value for field, value in MEANT.items() if field.startswith("env.")}, **flat}


def _filled(old: dict[str, Any], new: dict[str, Any], defaults: Defaults) -> dict[str, Any]:
    """Return an older configuration with today's defaults for absent fields and earlier defaults."""
    absent = [field for field in new if field not in old]
    changed = [
        field
        for field, value in old.items()
        if field in new and value in OLD_DEFAULTS.get(canonical(field), ()) and value != new[field]
    ]
    # a default that is gone is as good as absent
    gone = {field for field, value in old.items() if field not in new and value in OLD_DEFAULTS.get(field, ())}
    asked = defaults({canonical(field) for field in (*absent, *changed)})
    filled = {field: asked.get(canonical(field), new[field]) for field in (*absent, *changed)}
    for field in absent:
        owned, default = default_of_dataclass(field)
        if owned:
            filled[field] = default
    return {field: value for field, value in {**old, **filled}.items() if field not in gone}


def _remedy(path: Path) -> str:
    """Describe how to get the version that began a run."""
    try:
        made = read_json((path / GIT_FILE).read_bytes())
        commit, version = made.get("commit"), made.get("version")
    except (OSError, ValueError, AttributeError):
        commit = version = None
    if commit:
        return f"resume it with the version that began it: git checkout {commit[:10]}, and repeat the command"
    if version:
        return f"resume it with the version that began it: pip install trm-agent=={version}, and repeat the command"
    return f"no {GIT_FILE} says which version began it: resume it with that version, or give another run.dir"
