"""Forms of an answer: a number or expression, words, a list, a set, a tuple, an interval, an equation, a matrix."""

import dataclasses
from dataclasses import dataclass
from fractions import Fraction

from trm_envs.scoring.exact import Quantity
from trm_envs.scoring.items import Row


@dataclass(frozen=True)
class Leaf:
    """A number or an expression."""

    value: Fraction | None = None
    """Its exact value where it is rational."""
    quantity: Quantity | None = None
    """The value and unit of a plain numeral."""
    latex: str = ""
    """The expression as math-verify's grammar reads it; empty for a plain numeral."""
    kinds: frozenset[str] = frozenset()
    """The operations in it; see `census`."""
    has_variable: bool = False
    """True if a letter stands for a number."""
    digits: int = 0
    """Decimal digits that tell apart values written with its numerals."""
    unit: tuple[str, Fraction] | None = None
    """The known unit of an expression: its dimension, and its size in base units."""
    row: Row = ()
    """Its parts where it is a quotient of polynomials, which is compared without algebra; else empty."""
    suffix: str = ""
    """A trailing part of the value: a base, or words that may not be dropped."""

    def scaled(self, factor: Fraction) -> "Leaf":
        """Return the leaf times an integer."""
        if self.value is None:
            return dataclasses.replace(
                self, latex=rf"({self.latex})\cdot {factor}", digits=self.digits + len(str(factor)), row=()
            )
        quantity = None if self.kinds else Quantity(self.value * factor)
        return dataclasses.replace(self, value=self.value * factor, quantity=quantity)


@dataclass(frozen=True)
class Words:
    """Words, such as a name, "no solution" or the letter of a choice."""

    text: str
    """The words in small letters with single spaces; a single letter as it is."""
    leaf: Leaf | None = None
    """The product of letters that bare words may be instead, or the number of a full hour."""


@dataclass(frozen=True)
class Collection:
    """A list, set or tuple of answers, or a union of intervals."""

    kind: str
    """"list" (any order, each as often as it stands), "set", "tuple" (in order), "brackets" or "union"."""
    parts: tuple["Form", ...]
    """The members."""


@dataclass(frozen=True)
class Interval:
    """The numbers between two ends."""

    low: Leaf
    """The lower end."""
    high: Leaf
    """The upper end."""
    is_low_open: bool
    """True if the lower end is not a member."""
    is_high_open: bool
    """True if the upper end is not a member."""


@dataclass(frozen=True)
class Named:
    """A value with a name: `x = 5`, or `x \\in (0,1)`."""

    name: str
    """The left side."""
    value: "Form"
    """The last side."""
    middles: tuple["Form", ...] = ()
    """Sides between the name and the value, which must have the same value."""


@dataclass(frozen=True)
class Relation:
    """An equation or an inequality that gives no value to a name."""

    sign: str
    """"=", "<" or "<=", the greater side on the right, or "!="."""
    left: Leaf
    """The left side."""
    right: Leaf
    """The right side."""


@dataclass(frozen=True)
class Matrix:
    """A matrix or a column."""

    rows: tuple[tuple["Form", ...], ...]
    """Its cells."""


Form = Leaf | Words | Collection | Interval | Named | Relation | Matrix
