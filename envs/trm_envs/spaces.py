"""A Gymnasium space for free text."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from trm_fields import COUNT

# Samples mix scripts, markup and control characters, since an environment must take any text of a model.
SAMPLE_ALPHABET = "abc XYZ 0123456789 +-*/ {}<>\"'\\ \n\t ä ß 中 🙂 \x00"
SAMPLE_LENGTH = 48


class UnicodeText(Space[str]):
    """Any `str` of at most `max_length` characters, the empty one included.

    `gymnasium.spaces.Text` needs a finite set of characters, which a language model's text does not have.

    Args:
        max_length: the longest text that belongs to the space, in characters.
        seed: seed of `sample`.

    Raises:
        ValueError: if `max_length` is not positive.
    """

    def __init__(self, max_length: int = 1_000_000, seed: int | np.random.Generator | None = None) -> None:
        COUNT.check("max_length", max_length, "pass a larger length")
        self.max_length = max_length
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Return False, since a text has no vector of fixed size."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw a short random text; `mask` and `probability` are not supported."""
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText.sample takes neither mask nor probability; call it without arguments")
        length = int(self.np_random.integers(0, min(self.max_length, SAMPLE_LENGTH) + 1))
        picks = self.np_random.integers(0, len(SAMPLE_ALPHABET), size=length)
        return "".join(SAMPLE_ALPHABET[int(pick)] for pick in picks)

    def contains(self, x: Any) -> bool:
        """Return True if `x` is a `str` that is short enough."""
        return isinstance(x, str) and len(x) <= self.max_length

    def to_jsonable(self, sample_n: Iterable[str]) -> list[str]:
        """Return the texts unchanged, since they are JSON already."""
        return list(sample_n)

    def from_jsonable(self, sample_n: list[Any]) -> list[str]:
        """Return the texts unchanged."""
        return [str(text) for text in sample_n]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and other.max_length == self.max_length

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"
