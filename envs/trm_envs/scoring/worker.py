r"""The program of one worker process: JSON lines in, JSON lines out, one comparison a line.

Run as a file, not as a module: it imports math-verify and nothing of `trm_envs`, so that a worker starts quickly.
Only math-verify's LaTeX grammar is used; its parser of plain expressions goes through Python's `eval`.
"""

import json
import os
import resource
import signal
import sys
from typing import Any

MAX_MEMORY_BYTES = 2 * 2**30
# A worker whose parent is gone ends itself this long after the deadline.
GRACE_S = 1.0
# math-verify rounds to 6 decimals, so below this magnitude its "equal" is checked again, relative to the magnitude.
TINY = 1e-3
RELATIVE_TOLERANCE = 1e-6


def main() -> None:
    """Answer requests until standard input closes."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print cannot forge a reply
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import math_verify  # noqa: F401

    _send(replies, {"ready": True})
    for line in requests:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["deadline_s"] + GRACE_S)  # SIGALRM kills: no handler is set
        try:
            reply = compare(request["answer"], request["truth"])
        except BaseException as error:
            reply = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(replies, reply)


def compare(answer: str, truth: str) -> dict[str, Any]:
    """Return {"equal": bool, "detail": str}, or {"error": str} if the truth cannot be read."""
    from math_verify import verify

    gold, prediction = _parse(truth), _parse(answer)
    if not gold:
        return {"error": "math-verify cannot read the truth"}
    if not prediction:
        return {"equal": False, "detail": "math-verify cannot read the answer"}
    pairs = [(one, other) for one in gold for other in prediction]
    equal = [pair for pair in pairs if verify(*pair, timeout_seconds=None, raise_on_error=True)]
    if not equal:
        return {"equal": False, "detail": "math-verify finds them different"}
    if all(_differ_in_magnitude(*pair) for pair in equal):
        return {"equal": False, "detail": "equal only after rounding tiny values"}
    return {"equal": True, "detail": "math-verify finds them equal"}


def _parse(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    boxed = f"\\boxed{{{text}}}"
    return parse(boxed, config, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True)


def _differ_in_magnitude(gold: Any, prediction: Any) -> bool:
    """Return True if two tiny numbers, or numbers at the same place of two collections, are not equal after all."""
    import sympy

    left, right = _numbers(gold), _numbers(prediction)
    if len(left) != len(right):
        return False
    for one, other in zip(left, right, strict=True):
        size = max(abs(sympy.N(one, 30)), abs(sympy.N(other, 30)))
        if size < TINY and abs(sympy.N(one - other, 30)) > RELATIVE_TOLERANCE * size:
            return sympy.simplify(one - other) != 0
    return False


def _numbers(expression: Any) -> list[Any]:
    """Return the numbers in an expression: itself, the right side of an equation, or the members of a collection."""
    import sympy

    if isinstance(expression, sympy.Eq):
        return _numbers(expression.rhs)
    if isinstance(expression, sympy.Tuple | sympy.FiniteSet | sympy.Interval):
        members = [number for member in expression.args for number in _numbers(member)]
        return members if isinstance(expression, sympy.Tuple) else sorted(members, key=sympy.N)
    if isinstance(expression, sympy.Expr) and not expression.free_symbols:
        value = expression.doit()
        return [value] if value.is_real else []
    return []


def _send(replies: Any, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    del sys.path[0]  # this folder: its file names are not top-level modules
    main()
