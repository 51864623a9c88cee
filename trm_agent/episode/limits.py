"""How long an episode may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trm_fields import ABOVE_0, COUNT, build, check_settings, setting

PATH = "limits"


@dataclass(frozen=True)
class Limits:
    """Limits of one episode.

    Counts and the time of programs are the policy's: reaching a count ends the episode with the reward that the
    environment gave so far, using up the time of programs with 0. The timeouts are wall time, which depends on the
    machine and its load: running out of one is an infrastructure failure (no reward, out of the loss). So the policy
    must not be able to reach them: set them above the sum of its budgets, as `trm_agent.runs.preflight` checks. What
    is waited for a free place, in a sandbox, among the environments or in the engine, counts against none of them.

    Raises:
        ValueError: a field is not a positive number.
    """

    max_turns: int = setting(32, COUNT, "Assistant turns of an episode.")
    max_response_tokens: int = setting(
        4096, COUNT, "Tokens of the whole trajectory after the prompt, observations included."
    )
    max_turn_tokens: int = setting(
        1024, COUNT, "Sampled tokens of a turn; a longer one is cut, closed, and given to the environment."
    )
    max_tool_calls: int = setting(
        64, COUNT, "Executed tool calls of an episode; the call that goes beyond it is not run and ends the episode."
    )
    max_malformed_turns: int | None = setting(
        None,
        replace(COUNT, optional=True),
        "Turns with a call that could not be read, null for no limit; the last of them ends the episode, before the "
        "model can [try again](stop_reasons.md#malformed-turns).",
    )
    max_observation_tokens: int = setting(
        1024, COUNT, "Tokens of an observation's text; a longer one is cut with a visible mark."
    )
    max_prompt_tokens: int | None = setting(
        None,
        replace(COUNT, optional=True),
        "Tokens of the prompt, null for no limit; a longer prompt is a failure, never cut.",
    )
    tool_time_s: float = setting(60.0, ABOVE_0, "Seconds that the programs of a turn may run, hidden tests included.")
    episode_tool_time_s: float = setting(300.0, ABOVE_0, "Seconds that the programs of an episode may run.")
    step_timeout_s: float = setting(
        120.0,
        ABOVE_0,
        "Seconds for each call into the environment (make, reset, step, close); "
        "[must hold the budgets](stop_reasons.md#clocks).",
    )
    episode_timeout_s: float = setting(7200.0, ABOVE_0, "Seconds for the whole episode.")
    generate_timeout_s: float = setting(
        600.0, ABOVE_0, "Seconds for a turn of the generator; a turn that is late is tried once more."
    )

    def __post_init__(self) -> None:
        check_settings(self, PATH)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Limits:
        """Limits from a config section.

        Raises:
            ValueError: an unknown field (with the closest names) or a bad value.
        """
        return build(cls, values, PATH)
