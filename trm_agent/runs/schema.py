"""Check a composed configuration, or the name of a field, against the dataclasses of our groups."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trm_agent.runs.groups import GROUPS, OF_VERL, SEED
from trm_agent.runs.verl_fates import verl_fields
from trm_fields import Free, Setting, refuse, refuse_name, settings_of

_SECTION = Free("a section")
# sections that every run reads; the others depend on the model and the loss
_READ = ("run", "env", "hardware", "sandbox")
# an interpolated value, which is checked at the field that it comes from
_OTHER = re.compile(r"\$\{([\w.]+)\}")


def all_settings() -> dict[str, Setting]:
    """Return every field of our groups: path -> declaration."""
    declared = [SEED, *(item for path, group in GROUPS.items() for item in settings_of(group, path))]
    return {item.name: item for item in declared if item.name not in OF_VERL}


def check_groups(config: DictConfig) -> None:
    """Check the fields of our groups in a composed configuration.

    Raises:
        ValueError: a field that does not exist, a wrong type or a value out of range.
    """
    try:
        SEED.check("seed", config.get("seed", SEED.default))
        for path, group in GROUPS.items():
            section = OmegaConf.select(config, path)
            if section is None and path not in _READ:
                # such as `trm` with a loss of verl's
                continue
            values = _checked(section, group(), path)
            # the annotations hold as well, and conditions between fields
            OmegaConf.merge(_structured(group), values)
            if hasattr(group, "from_mapping"):
                group.from_mapping(values)
    except OmegaConfBaseException as error:
        refuse(error.full_key or path, _value_of(error), "a value of the field's type", f"change it ({_line(error)})")


def check_override(override: str) -> None:
    """Refuse an override that Hydra could not merge, if it sets a field of ours to a value that is not allowed.

    Raises:
        ValueError: with the allowed values.
    """
    field, _, _ = override.lstrip("+").partition("=")
    settings = all_settings()
    is_section = any(name.startswith(f"{field}.") for name in settings)
    allowed: Setting | Free | None = settings.get(field) or (_SECTION if is_section else None)
    if allowed is not None:
        allowed.check(field, OverridesParser.create().parse_override(override).value())


def check_removal(override: str) -> None:
    """Refuse to remove a field that every run reads.

    Raises:
        ValueError: the override is one such as `~run.name`.
    """
    field = override.removeprefix("~").partition("=")[0]
    read = [name for name in all_settings() if name.partition(".")[0] in (*_READ, "seed")]
    if override.startswith("~") and any(f"{name}.".startswith(f"{field}.") for name in read):
        refuse(field, override, "a value, since every run reads it", f"set it, or leave {override} out")


def check_name(field: str, written: str = "") -> None:
    """Refuse a field that one of our groups does not have.

    Args:
        field: its path.
        written: its value on the command line.

    Raises:
        ValueError: with the closest field.
    """
    if field in OF_VERL:
        _refuse_verls(field, written)
    path = next((path for path in GROUPS if field.startswith(f"{path}.")), None)
    if path is None:
        return
    declared = GROUPS[path]()
    for name in field.removeprefix(f"{path}.").split("."):
        names = [item.name for item in fields(declared)]
        path = f"{path}.{name}"
        if name not in names:
            _refuse_name(path, names)
        declared = getattr(declared, name)
        if not is_dataclass(declared):
            return


def _checked(section: Any, declared: Any, path: str) -> dict[str, Any]:
    """Check a section, and return its values without those that another field of ours holds."""
    _SECTION.check(path, section)
    names = [item.name for item in fields(declared)]
    settings = {item.name: item for item in settings_of(declared)}
    values: dict[str, Any] = {}
    for name, written in cast("dict[str, Any]", OmegaConf.to_container(section, resolve=False)).items():
        if name not in names:
            _refuse_name(f"{path}.{name}", names)
        if f"{path}.{name}" in OF_VERL:
            _refuse_verls(f"{path}.{name}", written)
        if (other := _OTHER.fullmatch(str(written))) and (
            other[1].startswith(("run.", "env.", "hardware.")) or other[1] in verl_fields()["fields"]
        ):
            continue
        value = section[name]
        if is_dataclass(getattr(declared, name)):
            values[name] = _checked(value, getattr(declared, name), f"{path}.{name}")
        else:
            values[name] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            settings[name].check(f"{path}.{name}", values[name])
    return values


@functools.cache
def _structured(group: Any) -> DictConfig:
    """Return the structured config of a dataclass, writable although the dataclass is frozen."""
    made: DictConfig = OmegaConf.structured(group)
    waiting: list[Any] = [made]
    while waiting:
        node = waiting.pop()
        OmegaConf.set_readonly(node, False)
        waiting += [item for item in map(node._get_node, node) if isinstance(item, DictConfig)]
    return made


def _refuse_name(field: str, names: Iterable[str]) -> None:
    path = next(path for path in GROUPS if field.startswith(f"{path}."))
    refuse_name(field, names, [item.name for item in settings_of(GROUPS[path], path)])


def _refuse_verls(field: str, written: Any) -> None:
    refuse(field, written, "nothing, verl has a field for it", f"set {OF_VERL[field]}")


def _value_of(error: OmegaConfBaseException) -> Any:
    return error.child_node._value() if error.value is None and error.child_node is not None else error.value


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
