"""How long an episode may be, and why it stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from trm_agent.names import closest


class StopReason(str, Enum):
    """Why an episode ended: a closed set.

    The first group is the doing of the policy or of the task: the episode has a reward and belongs to the loss.
    The second group is infrastructure: no reward, out of the loss and out of the group baseline, counted apart.
    """

    TERMINATED = "terminated"  # the environment said that the task is over
    TRUNCATED = "truncated"  # the environment cut the task short (Gymnasium's `truncated`)
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"  # no room left for the observation and one more token
    MAX_TOOL_CALLS = "max_tool_calls"

    ENV_ERROR = "env_error"  # make, reset or step raised, or broke the contract (NaN reward, wrong types)
    VERIFIER_ERROR = "verifier_error"  # the scorer could tell neither right nor wrong
    ENV_TIMEOUT = "env_timeout"
    GENERATOR_ERROR = "generator_error"  # the engine raised, or its tokens and log-probs do not match
    GENERATOR_TIMEOUT = "generator_timeout"
    EPISODE_TIMEOUT = "episode_timeout"  # wall time of the whole episode, whoever was slow
    PROMPT_TOO_LONG = "prompt_too_long"
    CHAT_ERROR = "chat_error"  # the chat template could not render or decode a message

    def __str__(self) -> str:
        return self.value

    @property
    def is_infrastructure_failure(self) -> bool:
        """Whether the episode says nothing about the policy and must not be trained on."""
        return self in _INFRASTRUCTURE


_INFRASTRUCTURE = frozenset(
    {
        StopReason.ENV_ERROR,
        StopReason.VERIFIER_ERROR,
        StopReason.ENV_TIMEOUT,
        StopReason.GENERATOR_ERROR,
        StopReason.GENERATOR_TIMEOUT,
        StopReason.EPISODE_TIMEOUT,
        StopReason.PROMPT_TOO_LONG,
        StopReason.CHAT_ERROR,
    }
)


@dataclass(frozen=True)
class Limits:
    """Limits of one episode.

    Counts are the policy's: reaching one ends the episode with the reward that the environment gave so far.
    Times are wall time, which depends on the machine and its load and not on the policy's choices: running out
    of one is an infrastructure failure (no reward, out of the loss), also when the model was the slow part.
    Bound the policy with tokens and turns; set the times so that only something broken reaches them.

    Attributes:
        max_turns: assistant turns.
        max_response_tokens: tokens of the whole trajectory after the prompt, observations included.
        max_turn_tokens: sampled tokens of one turn; a longer turn is cut, closed, and given to the environment.
        max_tool_calls: executed tool calls; the call that goes beyond it ends the episode unanswered.
        max_observation_tokens: tokens of an observation's text; a longer one is cut with a visible mark.
        max_prompt_tokens: tokens of the prompt, None for no limit; a longer prompt is a failure, never cut.
        step_timeout_s: seconds for each call into the environment (make, reset, step, close).
        episode_timeout_s: seconds for the whole episode.
        generate_timeout_s: seconds for one turn of the generator.

    Raises:
        ValueError: a field is not a positive number.
    """

    max_turns: int = 32
    max_response_tokens: int = 4096
    max_turn_tokens: int = 1024
    max_tool_calls: int = 64
    max_observation_tokens: int = 1024
    max_prompt_tokens: int | None = None
    step_timeout_s: float = 60.0
    episode_timeout_s: float = 1800.0
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
        raise ValueError(f"limits.{name} = {value!r}: it must be a whole number of at least 1; set it to such a number")


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"limits.{name} = {value!r}: it must be a finite number of seconds above 0; set it to such")
