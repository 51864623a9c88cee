"""A calculator tool: exact integer arithmetic, nothing else, in bounded time and memory."""

import ast
import operator
import re
from collections.abc import Callable

from trm_envs.tools import ToolError

MAX_EXPRESSION_LENGTH = 200
MAX_DIGITS = 60
# Refuses names, strings and attributes before the parser sees them.
_ALLOWED = re.compile(r"[0-9+\-*/%() ]+")
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def calculator(expression: str) -> str:
    """Evaluate an expression of integers.

    Args:
        expression: such as 12*3
    """
    return str(evaluate(expression))


def evaluate(expression: str) -> int:
    """Return the exact value of an expression of integers with + - * / // % and parentheses.

    Raises:
        ToolError: if it is too long, not such an expression, too large in value, or divides inexactly or by zero.
    """
    if len(expression) > MAX_EXPRESSION_LENGTH:
        raise ToolError(f"the expression is longer than {MAX_EXPRESSION_LENGTH} characters")
    if not _ALLOWED.fullmatch(expression):
        raise ToolError("the expression may hold only integers, + - * / // % and parentheses")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ToolError("the expression is not complete arithmetic") from error
    return _value(tree.body)


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        value = node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand) * (-1 if isinstance(node.op, ast.USub) else 1)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        left, right = _value(node.left), _value(node.right)
        value = _apply(operator.floordiv, left, right)
        if value * right != left:
            raise ToolError("the division is not exact; use // for the floor")
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        value = _apply(_OPERATORS[type(node.op)], _value(node.left), _value(node.right))
    else:
        raise ToolError("the expression may hold only integers, + - * / // % and parentheses")
    if abs(value) >= 10**MAX_DIGITS:
        raise ToolError(f"a value has more than {MAX_DIGITS} digits")
    return value


def _apply(function: Callable[[int, int], int], left: int, right: int) -> int:
    try:
        return function(left, right)
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error
