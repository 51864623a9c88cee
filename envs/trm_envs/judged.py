"""Call an environment's own functions on a model's text: return the checked value, or blame the text."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

from trm_envs.errors import ScorerFailed, describe, is_not_the_texts, place_of

ResultT = TypeVar("ResultT")


def judged(function: Callable[..., Any], check: Callable[[Any], ResultT], *args: Any) -> ResultT:
    """Return the checked result of one of the environment's own functions on the model's text.

    Raises:
        ScorerFailed: if it raises or returns a forbidden value.
        InfrastructureError: if it does.
    """
    try:
        return check(function(*args))
    except BaseException as error:
        if is_not_the_texts(error):
            raise
        raise ScorerFailed(f"{function.__name__} raised {describe(error)}{place_of(error)}") from error


def text(value: Any) -> str:
    """Return a value that must be text."""
    if not isinstance(value, str):
        raise TypeError(f"returned {type(value).__name__}, expected str")
    return value


def text_or_none(value: Any) -> str | None:
    """Return a value that must be text or None."""
    return None if value is None else text(value)


def finite(value: Any) -> float:
    """Return a value that must be a finite number."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"returned {number}, expected a finite number")
    return number


def numbers(value: Any) -> dict[str, float]:
    """Return a mapping that must hold finite numbers by name."""
    return {str(name): finite(each) for name, each in dict(value).items()}
