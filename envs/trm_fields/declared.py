"""Declare fields that document themselves: default, allowed values and meaning in one place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from trm_fields.allowed import Allowed, Flag, Number
from trm_fields.refusals import refuse_name

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """A field of a settings dataclass."""

    name: str
    """Name in the configuration."""
    default: Any
    """Default value; a number whose default is given may still be null if `allowed` says so."""
    allowed: Allowed
    """Allowed values."""
    doc: str
    """Meaning, as docs/configuration.md prints it."""

    @property
    def type(self) -> Any:
        """Return the type of its dataclass field."""
        if isinstance(self.allowed, Number):
            return self.allowed.kind | None if self.allowed.optional else self.allowed.kind
        kind = bool if isinstance(self.allowed, Flag) else str
        return kind | None if getattr(self.allowed, "optional", False) else kind

    def check(self, path: str, value: Any) -> None:
        """Check a value against the allowed ones.

        Args:
            path: path of the field, as the user sets it.
            value: the value to check.

        Raises:
            ValueError: it is not allowed; the message names path, value, allowed values and remedy.
        """
        has_example = self.default not in (None, "") and "${" not in str(self.default)
        self.allowed.check(path, value, f"give one, such as {self.default}" if has_example else "")


def setting(default: Any, allowed: Allowed, doc: str) -> Any:
    """Declare a field of a settings dataclass.

    Args:
        default: its default.
        allowed: its allowed values.
        doc: its meaning.

    Returns:
        A dataclass field that `settings_of` reads.
    """
    metadata = {"allowed": allowed, "doc": doc}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(default: Callable[[], Any]) -> Any:
    """Declare a field that holds a settings dataclass of its own.

    Args:
        default: the class, or a function that makes an instance with other defaults.
    """
    return field(default_factory=default)


def same_as(cls: Any, name: str) -> Any:
    """Declare a field with the default, allowed values and meaning of another dataclass's field."""
    (item,) = (item for item in settings_of(cls) if item.name == name)
    return setting(item.default, item.allowed, item.doc)


def settings_of(settings: Any, path: str = "") -> list[Setting]:
    """List the settings of a dataclass whose fields are declared by `setting` and `section`.

    Args:
        settings: the class, or an instance whose values are taken for the defaults.
        path: path of the section; the names of its fields begin with it.

    Returns:
        The settings, those of sections by dotted names.
    """
    found = []
    for item in fields(settings):
        default = _default(settings, item)
        name = f"{path}.{item.name}" if path else item.name
        if is_dataclass(default):
            found += settings_of(default, name)
        else:
            found.append(Setting(name, default, item.metadata["allowed"], item.metadata["doc"]))
    return found


def check_settings(settings: Any, path: str) -> None:
    """Check the values of a dataclass against those that its fields allow.

    Args:
        settings: an instance.
        path: path of the section that it describes; "" where its fields are given by name.

    Raises:
        ValueError: the first value that is not allowed.
    """
    for item in settings_of(type(settings)):
        item.check(f"{path}.{item.name}" if path else item.name, getattr(settings, item.name))


def build(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    """Build a dataclass from a section of a configuration.

    Args:
        cls: the dataclass.
        values: field -> value; absent fields keep their defaults, Hydra's `_target_` is ignored.
        path: path of the section.

    Raises:
        ValueError: a field that does not exist (the closest one is named) or a value that is not allowed.
    """
    names = [item.name for item in fields(cls)]  # type: ignore[arg-type]
    given = {str(name): value for name, value in values.items() if name != "_target_"}
    for name in given:
        if name not in names:
            refuse_name(f"{path}.{name}", names)
    return cls(**given)


def _default(settings: Any, item: Any) -> Any:
    if not isinstance(settings, type):
        return getattr(settings, item.name)
    return item.default if item.default_factory is MISSING else item.default_factory()
