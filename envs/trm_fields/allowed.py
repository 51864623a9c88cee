"""Sets of allowed values, which describe themselves in words and refuse all other values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trm_fields.refusals import nearest, refuse


class Allowed(Protocol):
    """A set of allowed values."""

    @property
    def words(self) -> str:
        """Return the values in words."""

    def check(self, path: str, value: Any, remedy: str = "") -> None:
        """Raise a ValueError that names the path, the value, the allowed ones and the remedy."""


@dataclass(frozen=True)
class Number:
    """Finite numbers within a range."""

    range: str = ""
    """The range in words, read after "a number"."""
    holds: Callable[[Any], bool] = lambda value: True
    """Function that returns True for a finite number within the range."""
    optional: bool = False
    """True if null is allowed."""
    kind: type = float
    """`float` or `int`."""

    @property
    def words(self) -> str:
        kind = "whole" if self.kind is int else "finite"
        return f"{'null or ' if self.optional else ''}a {kind} number {self.range}".rstrip()

    def check(self, path: str, value: Any, remedy: str = "") -> None:
        if value is None and self.optional:
            return
        kinds = (int,) if self.kind is int else (int, float)
        is_number = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not self.holds(value):
            refuse(path, value, self.words, "write it without quotes" if _in_quotes(value) else remedy or "give one")


def between(least: float, most: float, kind: type = float) -> Number:
    """Return the numbers from the least to the largest."""
    return Number(f"from {least} to {most}", lambda value: least <= value <= most, kind=kind)


@dataclass(frozen=True)
class OneOf:
    """A choice of names."""

    names: Sequence[str]
    """The allowed names."""
    besides: str = ""
    """Further values in words, which the caller takes before it checks."""
    optional: bool = False
    """True if null is allowed."""

    @property
    def words(self) -> str:
        names = ", ".join(("null",) * self.optional + tuple(f"`{name}`" for name in self.names))
        return f"{names}, or {self.besides}" if self.besides else names

    def check(self, path: str, value: Any, remedy: str = "") -> None:
        if value is None and self.optional:
            return
        if value not in self.names:
            refuse(path, value, self.words, nearest(str(value), self.names, "choose one of them"))


@dataclass(frozen=True)
class Flag:
    """A switch."""

    optional: bool = False
    """True if null is allowed."""

    @property
    def words(self) -> str:
        return "null, true or false" if self.optional else "true or false"

    def check(self, path: str, value: Any, remedy: str = "") -> None:
        if not isinstance(value, bool) and not (value is None and self.optional):
            refuse(path, value, self.words, "write one of them, without quotes")


@dataclass(frozen=True)
class Text:
    """Free text."""

    optional: bool = False
    """True if null is allowed."""
    without: str = ""
    """Text that it may not contain."""
    filled: bool = False
    """True if it may not be empty."""

    @property
    def words(self) -> str:
        text = f"text without `{self.without}`" if self.without else "text"
        text += ", not empty" if self.filled else ""
        return f"null or {text}" if self.optional else text

    def check(self, path: str, value: Any, remedy: str = "") -> None:
        if value is None and self.optional:
            return
        if not isinstance(value, str):
            refuse(path, value, self.words, remedy or "give one" if value is None else "put it in quotes")
        if self.filled and not value.strip():
            refuse(path, value, self.words, remedy or "give one, or leave it out")
        if self.without and self.without in value:
            refuse(path, value, self.words, f"leave out `{self.without}`")


@dataclass(frozen=True)
class Several:
    """A list."""

    item: Allowed
    """Allowed values of each item."""
    least: int = 1
    """Smallest number of items."""
    optional: bool = False
    """True if null is allowed."""

    @property
    def words(self) -> str:
        return f"{'null or ' if self.optional else ''}a list; each item: {self.item.words}"

    def check(self, path: str, value: Any, remedy: str = "") -> None:
        if value is None and self.optional:
            return
        if not isinstance(value, list | tuple) or len(value) < self.least:
            refuse(path, value, self.words, "write one as [A,B]")
        for number, item in enumerate(value):
            self.item.check(f"{path}[{number}]", item)


@dataclass(frozen=True)
class Free:
    """A section with names that are not ours."""

    words: str = "names and values"
    """The values in words."""

    def check(self, path: str, value: Any, remedy: str = "") -> None:
        if not isinstance(value, Mapping):
            refuse(path, value, self.words, "write a section as {name: value}")


ABOVE_0 = Number("above 0", lambda value: value > 0)
SHARE = Number("above 0 and at most 1", lambda value: 0 < value <= 1)
ZERO_TO_ONE = between(0, 1)
SEEDS = between(0, 2**31 - 1, kind=int)
LEAST_0 = Number("of 0 or more", lambda value: value >= 0, kind=int)
COUNT = Number("of 1 or more", lambda value: value >= 1, kind=int)


def _in_quotes(value: Any) -> bool:
    """Return True if a text is a number except for its quotes."""
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False
