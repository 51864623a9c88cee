"""Compare quotients of polynomials at whole numbers that are drawn anew in every process.

Values at a point are exact, so a difference proves that two functions differ. Equality proves nothing, but by the lemma
of Schwartz and Zippel two different functions whose cross product has degree d agree at a point drawn from 2 ** BITS
numbers a letter with a probability of at most d / 2 ** BITS, whatever was written before the draw. At all points they
agree with at most (d / 2 ** BITS) ** NUM_POINTS: below 1e-28 for d = 20,000.
"""

import functools
import secrets
from fractions import Fraction

from trm_envs.scoring.forms import Leaf
from trm_envs.scoring.items import Unreadable
from trm_envs.scoring.rational import names_of, value_at

BITS = 62
NUM_POINTS = 2


def same_function(truth: Leaf, answer: Leaf) -> bool | None:
    """Return whether two quotients of polynomials are exactly equal; None unless both are such quotients."""
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
    """Return the number that stands for a letter; a secret of this process, so that no answer is made to fit it."""
    del name, turn  # the cache tells them apart
    return Fraction(1 + secrets.randbits(BITS))
