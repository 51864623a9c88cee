"""A calculator tool: exact integer arithmetic, nothing else, in bounded time and memory."""

import operator
import re
from collections.abc import Callable, Sequence

from trm_envs.tools import ToolError

MAX_EXPRESSION_LENGTH = 200
MAX_DIGITS = 60
_ALLOWED = re.compile(r"[0-9+\-*/%() ]+")
_TOKEN = re.compile(r"[0-9]+|\*\*|//|[+\-*/%()]")
# precedence and function of each operator
_OPERATORS: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "+": (1, operator.add),
    "-": (1, operator.sub),
    "*": (2, operator.mul),
    "/": (2, operator.floordiv),
    "//": (2, operator.floordiv),
    "%": (2, operator.mod),
}
_ALLOWED_TEXT = "the expression may hold only integers, + - * / // % and parentheses"
_INCOMPLETE = "the expression is not complete arithmetic"


def calculator(expression: str) -> str:
    """Evaluate an expression of integers.

    Args:
        expression: such as 12*3
    """
    return str(evaluate(expression))


def evaluate(expression: str) -> int:
    """Return the exact value of an expression of integers with + - * / // % and parentheses, as Python reads them.

    Python's own parser is not used: before 3.11.8 and 3.12.2 it fails at random where several threads parse at once
    (CPython issue 106905), and each episode has a thread.

    Raises:
        ToolError: if it is too long, not such an expression, too large in value, or divides inexactly or by zero.
    """
    if len(expression) > MAX_EXPRESSION_LENGTH:
        raise ToolError(f"the expression is longer than {MAX_EXPRESSION_LENGTH} characters")
    tokens = _TOKEN.findall(expression)
    if not _ALLOWED.fullmatch(expression) or "**" in tokens:
        raise ToolError(_ALLOWED_TEXT)
    value, end = _expression(tokens, 0, least=1)
    if end != len(tokens):
        raise ToolError(_INCOMPLETE)
    return value


def _expression(tokens: Sequence[str], at: int, least: int) -> tuple[int, int]:
    """Evaluate the expression at a token with operators of at least this precedence; return its value and its end."""
    value, at = _operand(tokens, at)
    while at < len(tokens) and tokens[at] in _OPERATORS and _OPERATORS[tokens[at]][0] >= least:
        symbol = tokens[at]
        right, at = _expression(tokens, at + 1, _OPERATORS[symbol][0] + 1)
        value = _apply(symbol, value, right)
    return value, at


def _operand(tokens: Sequence[str], at: int) -> tuple[int, int]:
    token = tokens[at] if at < len(tokens) else ""
    if token in ("+", "-"):
        value, end = _operand(tokens, at + 1)
        return (-value if token == "-" else value), end
    if token == "(":
        value, end = _expression(tokens, at + 1, least=1)
        if end == len(tokens) or tokens[end] != ")":
            raise ToolError(_INCOMPLETE)
        return value, end + 1
    # as in Python, 007 is not a number
    if not token.isdigit() or (token[0] == "0" and token.strip("0")):
        raise ToolError(_INCOMPLETE)
    return _bounded(int(token)), at + 1


def _apply(symbol: str, left: int, right: int) -> int:
    try:
        value = _OPERATORS[symbol][1](left, right)
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error
    if symbol == "/" and value * right != left:
        raise ToolError("the division is not exact; use // for the floor")
    return _bounded(value)


def _bounded(value: int) -> int:
    if abs(value) >= 10**MAX_DIGITS:
        raise ToolError(f"a value has more than {MAX_DIGITS} digits")
    return value
