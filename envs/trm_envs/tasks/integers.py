"""Integers in answers."""

from trm_envs.scoring import parse_quantity, plain_answer


def read_integer(text: str) -> int | None:
    """Read an integer such as 36, -1,000 or $7$; None if the text is not one. Bounded in time."""
    quantity = parse_quantity(plain_answer(text))
    if quantity is None or quantity.dimension or quantity.value.denominator != 1:
        return None
    return int(quantity.value)
