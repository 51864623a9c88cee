"""The parts of an expression, and the families of functions."""

from typing import Any, NamedTuple

FAMILIES = {
    **dict.fromkeys(
        ["sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "sinh", "cosh", "tanh"],
        "trig",
    ),
    **dict.fromkeys(["log", "ln", "lg"], "log"),
    **dict.fromkeys(["gcd", "lcm", "max", "min"], "pick"),
    "exp": "e",
}
"""The family of each function's name: an answer may use the families that the truth uses."""


class Unreadable(ValueError):
    """The text is not a mathematical expression of the forms that are scored; the message says why."""


class Item(NamedTuple):
    """One part of an expression: its kind and, by kind, a name and the groups inside.

    Kinds: `number`, `variable`, `constant`, `operator`, `group` (named by its opening), `fraction`, `root`, `power`,
    `function`, `binomial`, `big` (a binder), `factorial`, `degree`, `comma`, `relation` (in a binder's range alone).
    """

    kind: str
    name: str = ""
    rows: tuple[Any, ...] = ()


Row = tuple[Item, ...]
