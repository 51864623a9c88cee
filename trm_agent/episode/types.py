"""What goes into an episode and what comes out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from trm_agent.episode.outcomes import StopReason


@dataclass(frozen=True)
class Generation:
    """One assistant turn as the engine sampled it.

    Attributes:
        token_ids: the sampled tokens, end-of-turn token included where it was sampled; at least one.
        log_probs: log-probability of each sampled token under the policy that sampled it, nats, same length.
        finished: True where a stop token ended the turn, False where `max_tokens` cut it.
        extra: engine-specific data, kept in the episode as it is (weight versions, top-K, ...).
    """

    token_ids: list[int]
    log_probs: list[float]
    finished: bool
    extra: dict[str, Any] = field(default_factory=dict)


class Generator(Protocol):
    """The engine: token ids in, token ids and log-probs out."""

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Generation:
        """Sample one turn.

        Args:
            prompt_ids: the whole context so far. It is the episode's own list, which grows from turn to turn by what is
                new at its end: read it, copy what you keep beyond the call, and leave it as it is.
            max_tokens: of the turn at most.
        """
        ...


@dataclass
class Turn:
    """One assistant turn and what answered it. Spans are [start, stop) in the episode's `response_ids`.

    Attributes:
        token_span: the sampled tokens.
        observation_span: the tokens between this turn and the next (closing, observation, generation prompt);
            None where no further turn was sampled, so that the response ends with the model's token.
        text: the turn's text as the environment got it, without the end-of-turn token.
        finished: False where a limit cut the turn.
        observation: the answer as the model would see it (cut to the limit); None where the step failed.
        role: role of the answer, "tool" or "user"; None where the episode ended.
        reward: reward of this step.
        num_tool_calls: tool calls executed in this step.
        malformed: whether the environment could not read the turn.
    """

    token_span: tuple[int, int]
    text: str
    finished: bool
    observation_span: tuple[int, int] | None = None
    observation: str | None = None
    role: str | None = None
    reward: float = 0.0
    num_tool_calls: int = 0
    malformed: bool = False


@dataclass
class Episode:
    """A token-aligned trajectory. `response_ids`, `response_mask` and `rollout_log_probs` have one length.

    Attributes:
        prompt_ids: tokens up to the first generation prompt.
        response_ids: everything after the prompt; what the model sampled stands here verbatim.
        response_mask: True where the token was sampled by the model.
        rollout_log_probs: log-prob of the sampled token, nats; 0.0 where the mask is False.
        turns: the assistant turns in order.
        reward: the return: sum of the step rewards, or 0 where what the model wrote broke off the episode (less than 0
            if the sum is), and at most the environment's `unfinished_reward` where it did not end the episode itself;
            None for an infrastructure failure.
        success: the environment's verdict; False wherever the environment did not end the episode.
        stop_reason: why it ended.
        error: what failed, for an infrastructure failure; else None.
        scorer_error: what the environment raised on the model's text, which made the episode score 0; else None.
        late_turn_tokens: tokens that the turn could have for which the engine was too late; else None.
        timings: seconds: "generate" (engine), "env" (environment), "waited" (for a free place, within "env"), "paused"
            (the engine stood still by design; only if it did), "total" (wall time of the episode).
        env_id, seed, options: what the environment was made from.
        extras: `Generation.extra` of each turn.
        numbers: what the environment counted, such as the accuracy of single steps.
        expected_answer: the right answer, for people who read the episode; None if the environment gives none.
    """

    env_id: str
    seed: int | None
    options: dict[str, Any]
    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[bool]
    rollout_log_probs: list[float]
    turns: list[Turn]
    reward: float | None
    success: bool
    stop_reason: StopReason
    error: str | None = None
    scorer_error: str | None = None
    late_turn_tokens: int | None = None
    timings: dict[str, float] = field(default_factory=dict)
    extras: list[dict[str, Any]] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    expected_answer: str | None = None

    @property
    def is_infrastructure_failure(self) -> bool:
        """Whether the episode must stay out of the loss and out of the group baseline."""
        return self.stop_reason.is_infrastructure_failure

    @property
    def num_turns(self) -> int:
        """Number of assistant turns."""
        return len(self.turns)

    @property
    def num_model_tokens(self) -> int:
        """Number of sampled tokens."""
        return sum(self.response_mask)

    @property
    def num_context_tokens(self) -> int:
        """Number of tokens in the response that the model did not sample."""
        return len(self.response_mask) - self.num_model_tokens

    @property
    def num_tool_calls(self) -> int:
        """Number of executed tool calls."""
        return sum(turn.num_tool_calls for turn in self.turns)

    @property
    def num_malformed(self) -> int:
        """Number of turns that the environment could not read."""
        return sum(turn.malformed for turn in self.turns)

    def check(self) -> None:
        """Assert the invariants of the class docstring.

        Raises:
            AssertionError: one does not hold; the message says which.
        """
        length = len(self.response_ids)
        assert len(self.response_mask) == length, f"{len(self.response_mask)} mask values for {length} tokens"
        assert len(self.rollout_log_probs) == length, f"{len(self.rollout_log_probs)} log-probs for {length} tokens"
        assert self._mask_from_spans() == self.response_mask, "the mask differs from the union of the turns' spans"
        assert all(map(math.isfinite, self.rollout_log_probs)), "a log-prob is not finite"
        rows = zip(self.response_mask, self.rollout_log_probs, strict=True)
        assert all(sampled or log_prob == 0.0 for sampled, log_prob in rows), "a context token has a log-prob"
        assert len(self.extras) == len(self.turns), f"{len(self.extras)} extras for {len(self.turns)} turns"
        if self.is_infrastructure_failure:
            assert self.reward is None, f"an infrastructure failure has the reward {self.reward}"
            assert self.error, "an infrastructure failure says nothing about its cause"
        else:
            assert self.reward is not None, "no reward"
            assert math.isfinite(self.reward), f"reward {self.reward}"
            assert self.error is None, "an error without an infrastructure failure"
        if self.scorer_error is not None or self.stop_reason is StopReason.MAX_TOOL_TIME:
            assert self.reward is not None, "what the model's text caused is scored"
            assert self.reward <= 0.0, f"reward {self.reward} after {self.scorer_error or self.stop_reason}"
            assert not self.success, "success after what the model's text broke off"
        ended_by_env = self.stop_reason in (StopReason.TERMINATED, StopReason.TRUNCATED)
        assert ended_by_env or not self.success, f"success with stop reason {self.stop_reason}"

    def _mask_from_spans(self) -> list[bool]:
        """Return the mask of the turns' spans, which must tile the response and end with a sampled token."""
        mask: list[bool] = []
        for index, turn in enumerate(self.turns):
            start, stop = turn.token_span
            assert start == len(mask), f"turn {index} starts at {start}, the turn before ended at {len(mask)}"
            assert stop > start, f"turn {index} has no tokens"
            mask += [True] * (stop - start)
            is_last = index == len(self.turns) - 1
            assert is_last == (turn.observation_span is None), f"observation span of turn {index} of {len(self.turns)}"
            if turn.observation_span is not None:
                start, stop = turn.observation_span
                assert start == len(mask), f"the observation of turn {index} starts at {start}, not at {len(mask)}"
                assert stop > start, f"the observation of turn {index} has no tokens"
                mask += [False] * (stop - start)
        return mask
