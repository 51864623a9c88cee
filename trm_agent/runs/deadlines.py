"""Check that a policy cannot reach a deadline within its budgets.

A deadline that passes is the infrastructure's fault, and its episode leaves the loss and every rate. So each must be
longer than the policy's own budgets, by a margin for everything that is not the policy's:

    step_timeout_s      >= seconds that one step may use (tool_time_s)             + STEP_MARGIN_S
    generate_timeout_s  >= max_turn_tokens / least tokens per second               + GENERATE_MARGIN_S
    episode_timeout_s   >= episode_tool_time_s + max_response_tokens / least rate
                           + TURN_S for each of max_turns                          + EPISODE_MARGIN_S
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from trm_agent.episode.limits import Limits
from trm_agent.episode.step_time import StepTime, tool_clock
from trm_fields import COUNT, refuse

STEP_MARGIN_S = 15.0
"""Seconds for the other work of a step: parsing, scoring in a worker, a thread that waits for a processor."""
GENERATE_MARGIN_S = 60.0
"""Seconds for reading the context, and for other work of the engine."""
EPISODE_MARGIN_S = 60.0
"""Seconds for making and resetting the environment."""
TURN_S = 1.0
"""Seconds for the work between two turns."""
EVAL_TOKENS_PER_S = 5.0
"""Smallest rate for `trm eval`, whose engines may be anywhere; training has `hardware.least_tokens_per_s`."""


def least_deadlines(limits: Limits, step_budget_s: float, tokens_per_s: float) -> dict[str, float]:
    """Return the least value of each deadline.

    Args:
        limits: the policy's budgets.
        step_budget_s: seconds that one step of the environment may use; see `step_budget_s`.
        tokens_per_s: the smallest rate at which a working engine samples one sequence.
    """
    num_turns = min(limits.max_turns, limits.max_response_tokens)
    episode_s = limits.episode_tool_time_s + limits.max_response_tokens / tokens_per_s + TURN_S * num_turns
    turn_tokens = min(limits.max_turn_tokens, limits.max_response_tokens)
    return {
        "step_timeout_s": step_budget_s + STEP_MARGIN_S,
        "generate_timeout_s": turn_tokens / tokens_per_s + GENERATE_MARGIN_S,
        "episode_timeout_s": episode_s + EPISODE_MARGIN_S,
    }


def check_deadlines(
    limits: Limits, step_budget_s: float, tokens_per_s: float, *, prefix: str, rate: str | None = None
) -> None:
    """Check that the deadlines hold the budgets.

    Args:
        limits, step_budget_s, tokens_per_s: as for `least_deadlines`.
        prefix: prefix of a limit's name in the user's settings, such as `env.limits.`.
        rate: the field that sets `tokens_per_s`; None if it is fixed.

    Raises:
        ValueError: the first deadline that is too short.
    """
    at = f"at {tokens_per_s:g} tokens per second" + (f" ({rate})" if rate else "")
    sums = {
        "step_timeout_s": (
            f"one step may use {step_budget_s:g} s ({prefix}tool_time_s={limits.tool_time_s:g} and what cannot be "
            f"stopped at once), and the margin is {STEP_MARGIN_S:g} s",
            "tool_time_s",
        ),
        "generate_timeout_s": (
            f"{prefix}max_turn_tokens={limits.max_turn_tokens} {at}, and the margin is {GENERATE_MARGIN_S:g} s",
            "max_turn_tokens",
        ),
        "episode_timeout_s": (
            f"{prefix}episode_tool_time_s={limits.episode_tool_time_s:g}, {limits.max_response_tokens} response tokens "
            f"{at}, {TURN_S:g} s for each of {prefix}max_turns={limits.max_turns}, and the margin is "
            f"{EPISODE_MARGIN_S:g} s",
            "episode_tool_time_s",
        ),
    }
    for name, least in least_deadlines(limits, step_budget_s, tokens_per_s).items():
        value = getattr(limits, name)
        if value < least:
            why, budget = sums[name]
            refuse(
                f"{prefix}{name}",
                value,
                f"at least {math.ceil(least)} s ({why})",
                f"raise it, or lower {prefix}{budget}",
                because="shorter than what the policy's budgets may take, so that it could make an episode vanish by "
                "taking long",
            )


def with_room(limits: Limits, tokens_per_s: float, fixed: Collection[str] = ()) -> Limits:
    """Return the limits with each deadline, unless it is `fixed`, raised to the least that holds the budgets."""
    least = least_deadlines(limits, limits.tool_time_s + STEP_MARGIN_S, tokens_per_s)
    raised = {name: max(value, getattr(limits, name)) for name, value in least.items() if name not in fixed}
    return replace(limits, **raised)


def step_budget_s(env: Any, limits: Limits) -> float:
    """Return the seconds that one step of an environment may use, without waits: its own, else `tool_time_s`."""
    clock = tool_clock(env)
    clock.set_limits(limits.tool_time_s, limits.episode_tool_time_s)
    if isinstance(clock, StepTime):
        return limits.tool_time_s
    try:
        own = env.get_wrapper_attr("step_budget_s")
    except AttributeError:
        return limits.tool_time_s
    return float(own())


def limits_of(config: Mapping[str, Any]) -> Limits:
    """Return `env.limits` of a run's configuration, with the token budgets that verl calls `data.max_*_length`.

    Raises:
        ValueError: an unknown field, or a bad value.
    """
    data = {name: config["data"][name] for name in ("max_prompt_length", "max_response_length")}
    for name, value in data.items():
        COUNT.check(f"data.{name}", value, f"give one, such as data.{name}=1024")
    budgets = {"max_prompt_tokens": data["max_prompt_length"], "max_response_tokens": data["max_response_length"]}
    try:
        return Limits.from_mapping({**config["env"]["limits"], **budgets})
    except ValueError as error:
        raise ValueError(f"env.{error}") from error
