"""What was made of the texts that came last, so that it is made once."""

from __future__ import annotations

import functools
import marshal
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")
LONGEST = 4096


class Recent(Generic[T]):
    """A function of texts that keeps its last results.

    Args:
        make: the function; what it returns is handed out again and must not be changed.
        most: results that are kept.
    """

    def __init__(self, make: Callable[..., T], most: int = 512) -> None:
        self._make, self._kept = make, functools.lru_cache(most)(make)

    def __call__(self, *key: Hashable) -> T:
        """Return the function's result; of more than `LONGEST` characters it is not kept."""
        long = sum(len(each) for each in key if isinstance(each, str | bytes)) > LONGEST
        return self._make(*key) if long else self._kept(*key)


def packed(tools: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Return schemas as bytes that others do not have; None if they hold more than plain values."""
    try:
        # from version 3 on the bytes depend on what else refers to the values
        return marshal.dumps([dict(tool) for tool in tools], 2)
    except ValueError:
        return None


def unpacked(tools: bytes) -> list[dict[str, Any]]:
    """Return the schemas of `packed`."""
    return list(marshal.loads(tools))
