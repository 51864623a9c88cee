"""Register a wrapped game under an id of one's own."""

from typing import Any

import gymnasium

ENTRY_POINT = "trm_envs.gym_tool:GymTool"


def register_gym(new_id: str, env_id: str, **options: Any) -> None:
    """Register a Gymnasium environment as one of ours.

    Args:
        new_id: the id to register, such as "mine/FrozenLake-v0".
        env_id: Gymnasium id of the game.
        **options: fields of `GymOptions`, such as `to_text`. A function at the top of a module is kept by its address,
            so that another process can have it.

    Raises:
        ValueError: `new_id` is taken.
    """
    if new_id in gymnasium.registry:
        raise ValueError(f"new_id: {new_id!r} is registered; give another")
    kwargs = {name: _address(value) if callable(value) else value for name, value in options.items()}
    gymnasium.register(new_id, ENTRY_POINT, kwargs={"env_id": env_id, **kwargs})


def _address(function: Any) -> Any:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "<")
    return function if module in (None, "__main__") or "<" in name else f"{module}:{name}"
