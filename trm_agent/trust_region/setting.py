"""A setting that documents itself: its default, its allowed values and its meaning stand in one place."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from trm_agent.names import closest


class Allowed(Protocol):
    """A set of allowed values."""

    @property
    def words(self) -> str:
        """The values in words."""

    def check(self, path: str, value: Any) -> None:
        """Raise a ValueError that names the path, the value, the allowed ones and the remedy."""


@dataclass(frozen=True)
class Number:
    """Finite numbers within a range."""

    range: str
    """The range in words, read after "a finite number"."""
    holds: Callable[[Any], bool]
    """Whether a finite number lies in the range."""
    optional: bool = False
    """Whether null is allowed."""
    kind: type = float
    """`float` or `int`."""

    @property
    def words(self) -> str:
        return f"{'null or ' if self.optional else ''}a finite number {self.range}"

    def check(self, path: str, value: Any) -> None:
        if value is None and self.optional:
            return
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not self.holds(value):
            hint = (
                "write it without quotes" if isinstance(value, str) else "see docs/configuration.md for common values"
            )
            raise ValueError(f"{path}: got {value!r}; allowed: {self.words}; {hint}")


@dataclass(frozen=True)
class OneOf:
    """Some names."""

    names: Sequence[str]
    """The allowed names."""

    @property
    def words(self) -> str:
        return ", ".join(f"`{name}`" for name in self.names)

    def check(self, path: str, value: Any) -> None:
        if value not in self.names:
            raise ValueError(f"{path}: got {value!r}, which does not exist; {closest(str(value), self.names)}")


@dataclass(frozen=True)
class Flag:
    """A switch."""

    words: str = "true or false"
    """The values in words."""

    def check(self, path: str, value: Any) -> None:
        if not isinstance(value, bool):
            raise ValueError(f"{path}: got {value!r}; allowed: {self.words}; write one")


ABOVE_0 = Number("above 0", lambda value: value > 0)
SHARE = Number("above 0 and at most 1", lambda value: 0 < value <= 1)


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
        """The type of its dataclass field."""
        if isinstance(self.allowed, Number):
            return self.allowed.kind | None if self.allowed.optional else self.allowed.kind
        return bool if isinstance(self.allowed, Flag) else str


def setting(default: Any, allowed: Allowed, doc: str) -> Any:
    """Declare a field of a settings dataclass.

    Args:
        default: its default.
        allowed: its allowed values.
        doc: its meaning.

    Returns:
        A dataclass field that `settings_of` reads.
    """
    return field(default=default, metadata={"allowed": allowed, "doc": doc})


def settings_of(cls: Any) -> list[Setting]:
    """List the settings of a dataclass whose fields are declared by `setting`."""
    return [Setting(item.name, item.default, item.metadata["allowed"], item.metadata["doc"]) for item in fields(cls)]
