"""The tool that plays a game: its schema for the action space, and the move that a call means."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from trm_envs.tools import Tool, ToolError
from trm_fields import refuse

NAME = "act"
ALLOWED = "Discrete, MultiDiscrete (of one dimension) or Text actions"


def action_tool(space: Any, names: Sequence[str], play: Callable[[Any, Any], Any]) -> Tool:
    """Return the tool of an action space.

    Args:
        space: the game's action space.
        names: names of the actions of a `Discrete` space, or ().
        play: makes a move; its arguments are the environment and the move.

    Raises:
        ValueError: if the space is of another kind, or the names do not fit.
    """
    if names and not (isinstance(space, spaces.Discrete) and len(set(names)) == len(names) == space.n):
        refuse("actions", list(names), f"a name of its own for each action of {space}", "leave it out, or name all")
    if isinstance(space, spaces.Discrete):
        first, last = int(space.start), int(space.start + space.n) - 1
        if names:
            numbers = {name: first + index for index, name in enumerate(names)}
            return _tool(lambda env, action: play(env, numbers[action]), str, "", enum=list(names))
        return _tool(lambda env, action: play(env, _number(action, first, last)), int, f"from {first} to {last}")
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        firsts = [int(start) for start in space.start]
        lasts = [first + int(number) - 1 for first, number in zip(firsts, space.nvec, strict=True)]
        told = ", ".join(f"{first} to {last}" for first, last in zip(firsts, lasts, strict=True))
        return _tool(lambda env, action: play(env, _numbers(action, firsts, lasts)), list[int], f"numbers from {told}")
    if isinstance(space, spaces.Text):
        told = f"{space.min_length} to {space.max_length} characters"
        return _tool(lambda env, action: play(env, _text(action, space)), str, told)
    refuse(
        "env_id", type(space).__name__, ALLOWED, "wrap the game so that it has such actions", because="as its actions"
    )


def moves_of(space: Any) -> list[Any] | None:
    """Return all moves of a space, for a search; None if they are too many."""
    if isinstance(space, spaces.Discrete):
        return [int(space.start) + index for index in range(int(space.n))]
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and np.prod(space.nvec.astype(float)) <= 64:
        return [np.array(index, space.dtype) + space.start for index in np.ndindex(*space.nvec)]
    return None


def argument_of(move: Any, names: Sequence[str], space: Any) -> Any:
    """Return a tool call's argument for a move."""
    if names:
        return names[move - int(space.start)]
    return [int(each) for each in move] if isinstance(move, np.ndarray) else move


def _tool(play: Callable[[Any, Any], Any], kind: Any, told: str, **schema: Any) -> Tool:
    def act(env: Any, action: Any) -> Any:
        """Make a move."""
        return play(env, action)

    act.__annotations__ = {"action": kind}
    tool = Tool(act, is_method=True)
    found = tool.parameters["properties"]["action"]
    found |= schema | ({"description": told} if told else {})
    return tool


def _number(action: int, first: int, last: int) -> int:
    if not first <= action <= last:
        raise ToolError(f"action {action} is not allowed: give a number from {first} to {last}")
    return action


def _numbers(action: list[int], firsts: list[int], lasts: list[int]) -> Any:
    if len(action) != len(firsts):
        raise ToolError(f"{len(action)} numbers are not allowed: give {len(firsts)}")
    return np.array([_number(*each) for each in zip(action, firsts, lasts, strict=True)], np.int64)


def _text(action: str, space: spaces.Text) -> str:
    if not space.contains(action):
        some = "".join(sorted(space.character_set))[:80]
        raise ToolError(f"not allowed: give {space.min_length} to {space.max_length} of the characters {some}")
    return action
