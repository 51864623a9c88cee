"""Rebuild the arrays of a stored random state from plain values: a pickle must not reach numpy's own constructors."""

import re
from typing import Any

import numpy as np

_PLAIN = re.compile(r"[biuf][1248]")


class PlainType:
    """A stand-in for `numpy.dtype` in a pickle: numbers of a fixed size, nothing that holds an object.

    Args:
        name: numpy's short name of the type, such as `u4`.
    """

    def __init__(self, name: str, *_: Any) -> None:
        if not isinstance(name, str) or not _PLAIN.fullmatch(name):
            raise ValueError(f"an array of type {name!r}; allowed: numbers of 1 to 8 bytes")
        self._name, self._order = name, "<"

    def __setstate__(self, state: Any) -> None:
        """Take the order of bytes from numpy's state; the rest describes types that are not allowed."""
        self._order = ">" if tuple(state)[1] == ">" else "<"

    def of_numpy(self) -> np.dtype[Any]:
        """Return the type itself."""
        return np.dtype(self._order + self._name)


class PlainArray(np.ndarray[Any, Any]):
    """A stand-in for `numpy.ndarray` in a pickle; empty, whatever it is made from, until it has its state."""

    def __new__(cls, *_: Any) -> "PlainArray":
        """Return an empty array: a pickle could ask for any size."""
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: Any) -> None:
        """Become the array of a stored state: its version, shape, type, order and bytes."""
        _, shape, kind, is_fortran, data = state
        if not isinstance(kind, PlainType) or not isinstance(data, bytes):
            raise ValueError("an array of something else than numbers")
        array = np.frombuffer(data, kind.of_numpy()).reshape(shape, order="F" if is_fortran else "C")
        # the state of an array that numpy itself has made and checked
        state = array.__reduce__()[2]
        super().__setstate__(state)  # type: ignore[arg-type]


def rebuilt(*_: Any) -> PlainArray:
    """Return an empty array, whatever class and shape the pickle names; its state follows."""
    return PlainArray()


STAND_INS: tuple[tuple[Any, str], ...] = (
    (PlainType, "numpy.dtype"),
    (PlainArray, "numpy.ndarray"),
    (rebuilt, "numpy._core.multiarray._reconstruct"),
    (rebuilt, "numpy.core.multiarray._reconstruct"),
)
"""Stand-ins by the names under which a pickle asks for them."""
