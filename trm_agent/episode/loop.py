"""The episode loop: environment, generator and limits make one episode, whatever goes wrong on the way."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

from trm_agent.episode.chat import ChatTokens
from trm_agent.episode.env_runner import EnvRaised, EnvRunner, TimedOut, describe, within
from trm_agent.episode.env_step import EnvStart, EnvStep
from trm_agent.episode.env_threads import EnvThreads
from trm_agent.episode.generation import checked_generation
from trm_agent.episode.limits import Limits
from trm_agent.episode.outcomes import OUTCOMES, SCORER_ERRORS, Cause, End, Ended, Score, cause_of_clock, worth
from trm_agent.episode.pauses import Pauses
from trm_agent.episode.types import Episode, Generation, Generator, Turn

logger = logging.getLogger("trm_agent")
T = TypeVar("T")
UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
UNSHOWABLE = "Error: this output cannot be shown."
GENERATE = "generate"


async def run_episode(
    make_env: Callable[[], Any],
    generator: Generator,
    chat: ChatTokens,
    limits: Limits,
    *,
    env_id: str,
    seed: int | None = None,
    options: Mapping[str, Any] | None = None,
    executor: EnvThreads | None = None,
    pauses: Pauses | None = None,
) -> Episode:
    """Plays one episode: the environment speaks, the model answers, until one of them or a limit ends it.

    The environment is made, reset, stepped and closed in a thread of its own. Each turn of the model is stepped
    even where a token limit cut it. An observation joins the response only together with the turn that it
    prompts, so the response ends with a sampled token; an observation that leaves no room for one is left out.

    Args:
        make_env: builds the environment (`trm_envs.base.ToolEnv`'s contract).
        generator: the engine.
        chat: messages to tokens.
        limits: when to stop.
        env_id: recorded in the episode.
        seed: for `env.reset`.
        options: for `env.reset`.
        executor: lends the environment its thread and counts abandoned ones; None for the process-wide default.
        pauses: filled by the generator; its seconds count against no limit.

    Returns:
        The episode. Whatever ends it is in it, as `trm_agent.episode.outcomes` decides: what the model's text caused
        has a reward; failures of the environment, the engine, the template or the clock are infrastructure failures
        with `reward` None. The tokens up to there are kept.

    Raises:
        asyncio.CancelledError: the caller cancelled; the environment is closed behind its back.
    """
    run = _Run(EnvRunner(make_env, limits, executor), generator, chat, limits, pauses or Pauses())
    started = time.monotonic()
    try:
        end = await run.play(seed, dict(options or {}))
    except Ended as ended:
        end = ended.end
    except BaseException:
        run.env.release()
        raise
    outcome = OUTCOMES[end.cause]
    is_scored = outcome.score is not Score.NONE
    if end.cause in SCORER_ERRORS:
        logger.warning("%s seed %s scores 0: %s: %s", env_id, seed, end.cause, end.message)
    await run.env.close(limits.step_timeout_s)
    run.timings |= run.pauses.timings()
    episode = Episode(
        env_id=env_id,
        seed=seed,
        options=dict(options or {}),
        prompt_ids=run.prompt_ids,
        response_ids=run.context[len(run.prompt_ids) : len(run.prompt_ids) + len(run.response_mask)],
        response_mask=run.response_mask,
        rollout_log_probs=run.rollout_log_probs,
        turns=run.turns,
        reward=worth(outcome, run.reward, run.unfinished_reward),
        success=end.success,
        stop_reason=outcome.reason,
        error=None if is_scored else end.message,
        scorer_error=end.message if end.cause in SCORER_ERRORS else None,
        late_turn_tokens=end.late_turn_tokens,
        timings={**run.timings, "waited": run.env.waited_s, "total": time.monotonic() - started},
        extras=run.extras,
        numbers=run.numbers,
        expected_answer=run.expected_answer,
    )
    episode.check()
    assert len(episode.response_ids) <= limits.max_response_tokens, f"{len(episode.response_ids)} response tokens"
    return episode


class _Run:
    """The growing trajectory of one episode."""

    def __init__(self, env: EnvRunner, generator: Generator, chat: ChatTokens, limits: Limits, pauses: Pauses) -> None:
        self.env, self.generator, self.chat, self.limits, self.pauses = env, generator, chat, limits, pauses
        self.deadline, self.lost_s = time.monotonic() + limits.episode_timeout_s, 0.0
        self.prompt_ids: list[int] = []
        # prompt, response and the answer before the next turn, in one list, of which no turn makes a copy
        self.context: list[int] = []
        self.response_mask: list[bool] = []
        self.rollout_log_probs: list[float] = []
        self.turns: list[Turn] = []
        self.extras: list[dict[str, Any]] = []
        self.reward, self.unfinished_reward = 0.0, math.inf
        self.expected_answer: str | None = None
        self.num_tool_calls = self.num_malformed = 0
        self.timings, self.numbers = {"generate": 0.0, "env": 0.0}, dict[str, float]()

    async def play(self, seed: int | None, options: dict[str, Any]) -> End:
        """Play the whole episode; return why it is over, or raise `Ended`."""
        await self._timed("make", "step_timeout_s", self.env.make)
        start = await self._timed("reset", "step_timeout_s", partial(self.env.reset, seed, options))
        self.unfinished_reward, self.expected_answer = start.unfinished_reward, start.expected_answer
        self._set_prompt(start)
        answer: list[int] = []
        while True:
            generation = await self._generate(answer)
            turn = self._append(answer, generation)
            text = self.chat.turn_prefix + turn.text
            step = await self._timed("step", "step_timeout_s", partial(self.env.step, text))
            self._record(turn, step)
            if (end := self._end(step)) is not None:
                return end
            answer = self._answer(turn, generation.token_ids)
            if len(self.response_mask) + len(answer) >= self.limits.max_response_tokens:
                return End(Cause.TOKENS)

    def _end(self, step: EnvStep) -> End | None:
        """Whether the episode is over after a step, by the environment or by a count."""
        if step.scorer_error is not None:
            return End(Cause.SCORER_RAISED, message=step.scorer_error)
        if step.tool_time_is_used_up:
            return End(Cause.TOOL_TIME)
        if step.tool_calls_are_used_up:
            return End(Cause.TOOL_CALLS)
        if step.terminated or step.truncated:
            return End(Cause.OVER if step.terminated else Cause.CUT, step.success)
        if self.num_malformed >= (self.limits.max_malformed_turns or math.inf):
            return End(Cause.MALFORMED)
        if len(self.turns) >= self.limits.max_turns:
            return End(Cause.TURNS)
        if self.num_tool_calls > self.limits.max_tool_calls:
            return End(Cause.TOOL_CALLS)
        return None

    def _set_prompt(self, start: EnvStart) -> None:
        try:
            self.prompt_ids = self.chat.prompt(start.system_prompt, start.observation, start.tool_schemas)
        except Exception as error:
            raise Ended(Cause.TEMPLATE, f"turn 0: {describe(error)}") from error
        limit = self.limits.max_prompt_tokens
        if limit is not None and len(self.prompt_ids) > limit:
            raise Ended(
                Cause.PROMPT,
                f"the prompt has {len(self.prompt_ids)} tokens, limits.max_prompt_tokens is {limit}; raise the limit "
                "or shorten the environment's system prompt, tools or first observation",
            )
        self.context = list(self.prompt_ids)

    async def _generate(self, answer: list[int]) -> Generation:
        """Sample the next turn behind an answer, which joins the response with it."""
        self.context += answer
        length = len(self.context)
        num_response = length - len(self.prompt_ids)
        max_tokens = min(self.limits.max_turn_tokens, self.limits.max_response_tokens - num_response)
        assert max_tokens >= 1, f"no room for a token after {num_response}"
        generation = await self._sample(max_tokens)
        try:
            if (found := len(self.context)) != length:
                raise ValueError(f"the generator changed its prompt_ids, which are {found} tokens and were {length}")
            return checked_generation(generation, max_tokens)
        except Exception as error:
            raise Ended(Cause.ENGINE_RAISED, f"turn {len(self.turns) + 1}: {error}") from error

    async def _sample(self, max_tokens: int) -> Generation:
        """Sample a turn in at most two tries; the time that a late one took is charged to nobody."""

        def ask(timeout_s: float) -> Coroutine[Any, Any, Generation]:
            return within(self.generator.generate(self.context, max_tokens), timeout_s, self.pauses.seconds)

        once = partial(self._timed, GENERATE, "generate_timeout_s", ask)
        started = time.monotonic() - self.pauses.seconds()
        try:
            return await once()
        except Ended as ended:
            if ended.end.cause is not Cause.ENGINE_LATE:
                raise
            logger.warning("%s; the turn is tried once more", ended)
        self.lost_s += time.monotonic() - self.pauses.seconds() - started
        try:
            return await once()
        except Ended as ended:
            if ended.end.cause is not Cause.ENGINE_LATE:
                raise
            raise Ended(Cause.ENGINE_LATE, f"{ended} (twice)", late_turn_tokens=max_tokens) from ended

    def _append(self, answer: list[int], generation: Generation) -> Turn:
        text = self._shown(lambda: self.chat.decode(generation.token_ids), lambda: UNDECODABLE)
        if self.turns:
            self.turns[-1].observation_span = self._extend([0.0] * len(answer), sampled=False)
        self.context += generation.token_ids
        span = self._extend(generation.log_probs, sampled=True)
        turn = Turn(token_span=span, text=text, finished=generation.finished)
        self.turns.append(turn)
        self.extras.append(dict(generation.extra))
        return turn

    def _extend(self, log_probs: list[float], sampled: bool) -> tuple[int, int]:
        """Let the next tokens of the context be of the response; return where they are in it."""
        start = len(self.response_mask)
        self.response_mask += [sampled] * len(log_probs)
        self.rollout_log_probs += log_probs
        return start, len(self.response_mask)

    def _record(self, turn: Turn, step: EnvStep) -> None:
        reward = self.reward + step.reward
        if not math.isfinite(reward):
            raise Ended(Cause.STEP_BREAKS_CONTRACT, f"the sum of the rewards is {reward} after {step.reward}")
        self.reward = reward
        self.numbers.update(step.numbers)
        self.num_tool_calls += step.num_tool_calls
        self.num_malformed += step.malformed
        turn.reward, turn.role = step.reward, step.role
        turn.num_tool_calls, turn.malformed = step.num_tool_calls, step.malformed
        limit = self.limits.max_observation_tokens
        turn.observation = self._shown(
            lambda: self.chat.fit(step.observation, limit), lambda: self.chat.fit(UNSHOWABLE, limit)
        )

    def _answer(self, turn: Turn, sampled: list[int]) -> list[int]:
        role, content = turn.role, turn.observation
        assert role is not None, "a turn that goes on has a role"
        assert content is not None, "a turn that goes on has an observation"
        show = partial(self.chat.observation, role, model_turn_finished=self.chat.closes_turn(sampled, role))

        def instead() -> list[int]:
            turn.observation = self.chat.fit(UNSHOWABLE, self.limits.max_observation_tokens)
            return show(turn.observation)

        return self._shown(lambda: show(content), instead)

    def _shown(self, show: Callable[[], T], instead: Callable[[], T]) -> T:
        """Text of the model's making in tokens or back, or what stands for it if that fails.

        The model decides what is decoded and printed, so that a failure is no reason to end the episode.
        """
        number = len(self.turns)
        try:
            return show()
        except Exception as error:
            logger.warning("turn %d cannot be shown, the model sees a note instead: %s", number, describe(error))
        try:
            return instead()
        except Exception as error:
            raise Ended(Cause.TEMPLATE, f"turn {number}: {describe(error)}") from error

    async def _timed(self, call: str, limit: str, run: Callable[[float], Coroutine[Any, Any, T]]) -> T:
        """Awaits a call with the time that it may take, and turns every way to fail into its cause."""
        limit_s: float = getattr(self.limits, limit)
        number = len(self.turns) + (call == GENERATE)
        key = GENERATE if call == GENERATE else "env"
        # of a clock that stands still in a pause
        started = time.monotonic() - self.pauses.seconds()
        left_s = self.deadline + self.env.waited_s + self.lost_s - started
        try:
            if left_s <= 0:
                raise TimedOut
            return await run(min(limit_s, left_s))
        except TimedOut:
            cause = cause_of_clock(call, self.env.tool_time_is_used_up())
            by_episode = left_s < limit_s and cause is not Cause.STEP_HANGS_IN_TOOL
            name = "episode_timeout_s" if by_episode else limit
            message = (
                f"turn {number}: {key} did not return within limits.{name} = {getattr(self.limits, name)} s; "
                "find what hangs or raise it"
            )
            raise Ended(Cause.EPISODE_LATE if by_episode else cause, message) from None
        except EnvRaised as error:
            raise Ended(error.cause, f"turn {number}: {error}") from error
        except Exception as error:
            # what the environment raises does not get here
            cause = Cause.ENGINE_RAISED if call == GENERATE else Cause.NO_THREAD
            raise Ended(cause, f"turn {number}: {call} failed: {describe(error)}") from error
        finally:
            self.timings[key] += time.monotonic() - self.pauses.seconds() - started
