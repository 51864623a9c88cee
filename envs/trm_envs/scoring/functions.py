"""Compare quotients of polynomials exactly, at whole numbers that no polynomial has for roots by chance."""

import functools
import hashlib
from fractions import Fraction

from trm_envs.scoring.forms import Leaf
from trm_envs.scoring.items import Unreadable
from trm_envs.scoring.rational import names_of, value_at

NUM_POINTS = 2


def same_function(truth: Leaf, answer: Leaf) -> bool | None:
    """Return whether two quotients of polynomials are equal, exactly; None if they are not both that."""
    if not all(leaf.row or leaf.value is not None for leaf in (truth, answer)):
        return None
    names = names_of(truth.row) | names_of(answer.row)
    for turn in range(NUM_POINTS):
        point = {name: _coordinate(name, turn) for name in names}
        try:
            one, other = (
                leaf.value if leaf.value is not None else value_at(leaf.row, point) for leaf in (truth, answer)
            )
        except Unreadable:
            return None
        if one is None or other is None or one != other:
            return None if one is None or other is None else False
    return True


@functools.lru_cache(maxsize=4096)
def _coordinate(name: str, turn: int) -> Fraction:
    """Return a whole number of 40 bits that no polynomial has for a root by chance."""
    return Fraction(int.from_bytes(hashlib.sha256(f"{name} {turn}".encode()).digest()[:5], "big") | 1 << 39)
