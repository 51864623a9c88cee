"""Observations and steps of an environment, checked against the contract."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsFloat

import numpy as np

from trm_agent.episode.outcomes import ContractBroken, StopReason
from trm_agent.episode.plain_text import encodable
from trm_envs.errors import on_one_line

MAX_EXPECTED_CHARS = 2000


@dataclass(frozen=True)
class EnvStart:
    """What a fresh episode begins with."""

    system_prompt: str
    tool_schemas: list[dict[str, Any]]
    observation: str
    unfinished_reward: float = math.inf
    """The largest return of an episode that the environment did not end itself."""
    expected_answer: str | None = None
    """The right answer, for people who read the episode; None if there is none."""


@dataclass(frozen=True)
class EnvStep:
    """A checked answer of `env.step`; `role` is None and `success` meaningful where the episode ended.

    `scorer_error` is what the environment's scorer raised on the model's text, None where it did not.
    """

    observation: str
    role: str | None
    reward: float
    terminated: bool
    truncated: bool
    success: bool
    num_tool_calls: int
    malformed: bool
    numbers: dict[str, float]
    tool_time_is_used_up: bool
    tool_calls_are_used_up: bool
    scorer_error: str | None


def checked_step(outcome: Any) -> EnvStep:
    """Return the answer of `env.step`, checked.

    Raises:
        ContractBroken: it is not what the contract promises; the message says what and what to do.
    """
    try:
        return _checked(outcome)
    except ContractBroken:
        raise
    except Exception as error:
        raise ContractBroken(f"{type(error).__name__}: {error}") from error


def _checked(outcome: Any) -> EnvStep:
    observation, reward, terminated, truncated, info = outcome
    check_type("the observation of step", observation, str)
    check_type("info", info, dict)
    scorer_error = info.get("scorer_error")
    stopped = info.get("stop_reason")
    used_up, too_many = stopped == StopReason.MAX_TOOL_TIME.value, stopped == StopReason.MAX_TOOL_CALLS.value
    done = bool(terminated or truncated or used_up or too_many or scorer_error is not None)
    check_type("info['num_tool_calls']", info.get("num_tool_calls"), (int, np.integer))
    check_type("info['malformed']", info.get("malformed"), (bool, np.bool_))
    if terminated and scorer_error is None:
        check_type("info['success'] at the end of the episode", info.get("success"), (bool, np.bool_))
    elif not done and info.get("role") not in ("tool", "user"):
        raise ContractBroken(f"info['role'] is {info.get('role')!r}: it must be 'tool' or 'user'; set it in env.step")
    return EnvStep(
        observation=observation,
        role=None if done else info["role"],
        reward=_finite_reward(reward),
        terminated=bool(terminated),
        truncated=bool(truncated),
        # Gymnasium's TimeLimit truncates without the environment's knowledge, hence without a verdict.
        success=done and bool(info.get("success", False)),
        num_tool_calls=int(info["num_tool_calls"]),
        malformed=bool(info["malformed"]),
        numbers={str(name): float(value) for name, value in dict(info.get("numbers", {})).items()},
        tool_time_is_used_up=used_up,
        tool_calls_are_used_up=too_many,
        # it may quote the model's text, lone surrogates included, and goes into files
        scorer_error=None if scorer_error is None else on_one_line(str(scorer_error)),
    )


def _finite_reward(reward: object) -> float:
    # a float first: the look for a method of others takes longer than the rest of the check
    if not isinstance(reward, float) and (isinstance(reward, (str, bytes)) or not isinstance(reward, SupportsFloat)):
        raise ContractBroken(f"the reward is {reward!r}: it must be a finite number; return a float from env.step")
    if not math.isfinite(value := float(reward)):
        raise ContractBroken(f"the reward is {value}: it must be finite; check the scoring in env.step")
    return value


def checked_start(read: Callable[[str], Any], observation: Any) -> EnvStart:
    """Return the beginning of an episode, checked.

    Args:
        read: returns an attribute of the environment.
        observation: the observation of `reset`.

    Raises:
        ContractBroken: it is not what the contract promises.
    """
    unfinished = float(_optional(read, "unfinished_reward", math.inf))
    if math.isnan(unfinished):
        raise ContractBroken("env.unfinished_reward is nan: it must be a number; set a low one, such as -100.0")
    expected = _optional(read, "expected_answer", None)
    start = EnvStart(
        read("system_prompt"),
        list(read("tool_schemas")),
        observation,
        unfinished,
        None if expected is None else encodable(str(expected)[:MAX_EXPECTED_CHARS]),
    )
    check_type("env.system_prompt", start.system_prompt, str)
    check_type("the observation of reset", observation, str)
    return start


def _optional(read: Callable[[str], Any], name: str, otherwise: Any) -> Any:
    try:
        return read(name)
    except AttributeError:
        return otherwise


def check_type(what: str, value: object, kinds: type | tuple[type, ...]) -> None:
    """Check a value of the environment's.

    Raises:
        ContractBroken: it is of another type.
    """
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise ContractBroken(f"{what} is {value!r:.100}: it must be of type {names}; return that from the environment")
