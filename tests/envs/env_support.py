"""Environments and turns for tests."""

import json
from collections.abc import Callable
from typing import Any

import gymnasium

import trm_envs

SLEEP = "import time; time.sleep(20)"


def make(env_id: str, **options: Any) -> trm_envs.ToolEnv:
    return gymnasium.make(env_id, disable_env_checker=True, **options).unwrapped  # type: ignore[return-value]


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def raising(error: BaseException) -> Callable[[str], Any]:
    def react(*_: Any, **__: Any) -> Any:
        raise error

    return react
