"""An autocast around the core changes nothing in it."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that computes in the precision of its tensors, whatever autocast is in force.

    A trainer runs model and loss in one `torch.autocast`, under which each product of matrices is rounded to its dtype.

    Args:
        function: of tensors of any dtype.
    """

    @functools.wraps(function)
    def computing(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return computing
