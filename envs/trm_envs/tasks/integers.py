"""Integers in answers."""

from trm_envs.scoring import parse_quantity, plain_answer


def read_integer(text: str) -> int | None:
    """Return the integer that a text is, such as 36, -1,000 or $7$; None if it is none. Bounded in time."""
    quantity = parse_quantity(plain_answer(text))
    if quantity is None or quantity.dimension or quantity.value.denominator != 1:
        return None
    return int(quantity.value)
