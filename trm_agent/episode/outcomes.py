"""The one table from every cause that ends an episode to (stop reason, whose fault it was, what it scores).

What the model wrote may not make an episode vanish: a policy would write it whenever it expects to lose. So whatever
comes out of the environment's `step` counts as caused by the model's text, unless the environment itself says
otherwise by an `InfrastructureError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from trm_envs.errors import InfrastructureError, VerifierError


class StopReason(str, Enum):
    """Why an episode ended: a closed set. Whose fault a reason is, `OUTCOMES` says."""

    TERMINATED = "terminated"  # the environment said that the task is over
    TRUNCATED = "truncated"  # the environment cut the task short (Gymnasium's `truncated`)
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"  # no room left for the observation and one more token
    MAX_TOOL_CALLS = "max_tool_calls"
    MAX_MALFORMED_TURNS = "max_malformed_turns"
    MAX_TOOL_TIME = "max_tool_time"  # the model's programs used up the time of a turn or of the episode

    ENV_ERROR = "env_error"  # make or reset raised, or anything of the environment an InfrastructureError
    VERIFIER_ERROR = "verifier_error"  # the scorer could tell neither right nor wrong
    ENV_TIMEOUT = "env_timeout"
    GENERATOR_ERROR = "generator_error"  # the engine raised, or what it returned with its tokens does not match them
    GENERATOR_TIMEOUT = "generator_timeout"
    EPISODE_TIMEOUT = "episode_timeout"  # wall time of the whole episode, waits taken out
    PROMPT_TOO_LONG = "prompt_too_long"
    CHAT_ERROR = "chat_error"  # the chat template cannot render the task, or no message at all

    def __str__(self) -> str:
        return self.value

    @property
    def is_infrastructure_failure(self) -> bool:
        """Whether the episode says nothing about the policy and must not be trained on."""
        return fault_of(self) is Fault.INFRASTRUCTURE


class Fault(str, Enum):
    """Who ended an episode."""

    TASK = "task"
    """The task's own end."""
    MODEL = "model"
    """A limit of the policy's, or what its text caused."""
    INFRASTRUCTURE = "infrastructure"
    """Anything else: no reward, out of the loss, of the group's baseline and of every rate, counted by reason."""

    def __str__(self) -> str:
        return self.value


class Score(str, Enum):
    """What the episode is worth."""

    SUM = "sum of the rewards"
    ZERO = "0"
    NONE = "none"

    def __str__(self) -> str:
        return self.value


class Cause(str, Enum):
    """What happened: every exception, status and clock that can end an episode. The text stands in the docs."""

    OVER = "`step` says terminated"
    CUT = "`step` says truncated"
    TURNS = "`max_turns` turns were played"
    TOKENS = "the response has no room for another turn within `max_response_tokens`"
    TOOL_CALLS = "more than `max_tool_calls` tool calls"
    MALFORMED = "`max_malformed_turns` turns had a call that could not be read"
    TOOL_TIME = "the programs of a turn or of the episode used up `tool_time_s` or `episode_tool_time_s`"
    STEP_HANGS_IN_TOOL = "`step` does not return within `step_timeout_s`, and the time for programs is used up"
    SCORER_RAISED = "`score`, `follow_up`, `follow_answer` or a wrapped game raises on the model's text"
    STEP_RAISED = "`step` raises anything but an `InfrastructureError`"
    STEP_BREAKS_CONTRACT = "`step` returns what the contract forbids, such as a reward that is no finite number"

    MAKE_RAISED = "`make` or `reset` raises, or breaks the contract"
    SAYS_INFRASTRUCTURE = "the environment raises an `InfrastructureError`: a sandbox or a service failed"
    UNDECIDED = "the environment raises a `VerifierError`: the scorer cannot judge the truth either"
    NO_THREAD = "this process cannot start a thread for the environment"
    MAKE_HANGS = "`make` or `reset` does not return within `step_timeout_s`"
    STEP_HANGS = "`step` does not return within `step_timeout_s`, and the time for programs is not used up"
    ENGINE_RAISED = "the engine raises, or returns tokens, log-probs, distributions or versions that do not fit"
    ENGINE_LATE = "a turn is not generated within `generate_timeout_s`, twice"
    EPISODE_LATE = "the episode is not over within `episode_timeout_s`, waits taken out"
    PROMPT = "the task's prompt has more than `max_prompt_tokens` tokens"
    TEMPLATE = "the chat template can render neither the task nor a plain message"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Outcome:
    """A row of the table."""

    reason: StopReason
    fault: Fault
    score: Score


def _task(reason: StopReason) -> Outcome:
    return Outcome(reason, Fault.TASK, Score.SUM)


def _limit(reason: StopReason) -> Outcome:
    return Outcome(reason, Fault.MODEL, Score.SUM)


def _model(reason: StopReason) -> Outcome:
    return Outcome(reason, Fault.MODEL, Score.ZERO)


def _infrastructure(reason: StopReason) -> Outcome:
    return Outcome(reason, Fault.INFRASTRUCTURE, Score.NONE)


OUTCOMES: Mapping[Cause, Outcome] = {
    Cause.OVER: _task(StopReason.TERMINATED),
    Cause.CUT: _task(StopReason.TRUNCATED),
    Cause.TURNS: _limit(StopReason.MAX_TURNS),
    Cause.TOKENS: _limit(StopReason.MAX_TOKENS),
    Cause.TOOL_CALLS: _limit(StopReason.MAX_TOOL_CALLS),
    Cause.MALFORMED: _limit(StopReason.MAX_MALFORMED_TURNS),
    Cause.TOOL_TIME: _model(StopReason.MAX_TOOL_TIME),
    Cause.STEP_HANGS_IN_TOOL: _model(StopReason.MAX_TOOL_TIME),
    Cause.SCORER_RAISED: _model(StopReason.TERMINATED),
    Cause.STEP_RAISED: _model(StopReason.TERMINATED),
    Cause.STEP_BREAKS_CONTRACT: _model(StopReason.TERMINATED),
    Cause.MAKE_RAISED: _infrastructure(StopReason.ENV_ERROR),
    Cause.SAYS_INFRASTRUCTURE: _infrastructure(StopReason.ENV_ERROR),
    Cause.UNDECIDED: _infrastructure(StopReason.VERIFIER_ERROR),
    Cause.NO_THREAD: _infrastructure(StopReason.ENV_ERROR),
    Cause.MAKE_HANGS: _infrastructure(StopReason.ENV_TIMEOUT),
    Cause.STEP_HANGS: _infrastructure(StopReason.ENV_TIMEOUT),
    Cause.ENGINE_RAISED: _infrastructure(StopReason.GENERATOR_ERROR),
    Cause.ENGINE_LATE: _infrastructure(StopReason.GENERATOR_TIMEOUT),
    Cause.EPISODE_LATE: _infrastructure(StopReason.EPISODE_TIMEOUT),
    Cause.PROMPT: _infrastructure(StopReason.PROMPT_TOO_LONG),
    Cause.TEMPLATE: _infrastructure(StopReason.CHAT_ERROR),
}


def worth(outcome: Outcome, rewards: float, unfinished: float = math.inf) -> float | None:
    """Return the reward of an episode; None for an infrastructure failure.

    Args:
        outcome: the row of its end.
        rewards: the sum of its steps' rewards.
        unfinished: the largest worth of an episode that the environment did not end itself. Without one, a policy
            whose rewards are negative would do best by not playing on.
    """
    if outcome.score is Score.NONE:
        return None
    paid = rewards if outcome.score is Score.SUM else min(0.0, rewards)
    return min(paid, unfinished) if outcome.fault is Fault.MODEL else paid


SCORER_ERRORS = frozenset({Cause.SCORER_RAISED, Cause.STEP_RAISED, Cause.STEP_BREAKS_CONTRACT})
"""Causes that an episode tells in `scorer_error`."""

# a reason with several rows: the first says whose fault it is, and none of them disagrees on infrastructure (a test)
_FAULTS: Mapping[StopReason, Fault] = {outcome.reason: outcome.fault for outcome in reversed(list(OUTCOMES.values()))}


def fault_of(reason: StopReason) -> Fault:
    """Whose fault a stop reason is, by its first row in the table.

    Raises:
        KeyError: the reason has no row.
    """
    return _FAULTS[reason]


class ContractBroken(ValueError):
    """The environment returned what the contract forbids."""


def cause_of_error(call: str, error: BaseException) -> Cause:
    """Return the cause that an exception of the environment is.

    Args:
        call: "make", "reset" or "step".
        error: what it raised.
    """
    if isinstance(error, VerifierError):
        return Cause.UNDECIDED
    if isinstance(error, InfrastructureError):
        return Cause.SAYS_INFRASTRUCTURE
    if call != "step":
        return Cause.MAKE_RAISED
    return Cause.STEP_BREAKS_CONTRACT if isinstance(error, ContractBroken) else Cause.STEP_RAISED


def cause_of_clock(call: str, tool_time_is_used_up: bool) -> Cause:
    """Return the cause that an expired `step_timeout_s` or `generate_timeout_s` is.

    Args:
        call: "make", "reset", "step" or "generate".
        tool_time_is_used_up: whether the model's programs have used up their time.
    """
    if call == "generate":
        return Cause.ENGINE_LATE
    if call != "step":
        return Cause.MAKE_HANGS
    return Cause.STEP_HANGS_IN_TOOL if tool_time_is_used_up else Cause.STEP_HANGS


@dataclass(frozen=True)
class End:
    """Why an episode is over."""

    cause: Cause
    success: bool = False
    message: str | None = None
    """What failed, or what the model's text made fail."""
    late_turn_tokens: int | None = None
    """Tokens that the turn could have for which the engine was too late."""


class Ended(Exception):
    """Ends the episode from wherever it is raised."""

    def __init__(self, cause: Cause, message: str, late_turn_tokens: int | None = None) -> None:
        super().__init__(message)
        self.end = End(cause, message=message, late_turn_tokens=late_turn_tokens)
