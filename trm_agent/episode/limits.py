"""How long an episode may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from trm_agent.names import closest


@dataclass(frozen=True)
class Limits:
    """Limits of one episode.

    Counts and the time of programs are the policy's: reaching a count ends the episode with the reward that the
    environment gave so far, using up the time of programs with 0. The timeouts are wall time, which depends on the
    machine and its load: running out of one is an infrastructure failure (no reward, out of the loss). So the policy
    must not be able to reach them: set them above the sum of its budgets, as `trm_agent.runs.preflight` checks. What
    is waited for a free place, in a sandbox, among the environments or in the engine, counts against none of them.

    Attributes:
        max_turns: assistant turns.
        max_response_tokens: tokens of the whole trajectory after the prompt, observations included.
        max_turn_tokens: sampled tokens of one turn; a longer turn is cut, closed, and given to the environment.
        max_tool_calls: executed tool calls; the call that goes beyond it ends the episode unanswered.
        max_observation_tokens: tokens of an observation's text; a longer one is cut with a visible mark.
        max_prompt_tokens: tokens of the prompt, None for no limit; a longer prompt is a failure, never cut.
        tool_time_s: seconds that the programs of one turn may run, hidden tests included.
        episode_tool_time_s: seconds that the programs of an episode may run.
        step_timeout_s: seconds for each call into the environment (make, reset, step, close).
        episode_timeout_s: seconds for the whole episode.
        generate_timeout_s: seconds for one turn of the generator; a turn that is late is tried once more.

    Raises:
        ValueError: a field is not a positive number.
    """

    max_turns: int = 32
    max_response_tokens: int = 4096
    max_turn_tokens: int = 1024
    max_tool_calls: int = 64
    max_observation_tokens: int = 1024
    max_prompt_tokens: int | None = None
    tool_time_s: float = 60.0
    episode_tool_time_s: float = 300.0
    step_timeout_s: float = 120.0
    episode_timeout_s: float = 7200.0
    generate_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_s"):
                _check_seconds(field.name, value)
            elif not (field.name == "max_prompt_tokens" and value is None):
                _check_count(field.name, value)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Limits:
        """Limits from a config section.

        Raises:
            ValueError: an unknown field (with the closest names) or a bad value.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"limits.{name} is not a limit: {closest(str(name), known)}")
        return cls(**values)


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"limits.{name} = {value!r}: expected a whole number of at least 1; e.g. limits.{name}=8")


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"limits.{name} = {value!r}: expected seconds above 0, a finite number; e.g. limits.{name}=60")
