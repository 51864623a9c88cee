"""The episode loop: environment, generator and limits make one episode, whatever goes wrong on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from trm_agent.episode.chat import ChatTokens
from trm_agent.episode.env_runner import EnvRaised, EnvRunner, EnvStart, EnvStep, TimedOut, describe, within
from trm_agent.episode.env_threads import EnvThreads
from trm_agent.episode.limits import Limits, StopReason
from trm_agent.episode.types import Episode, Generation, Generator, Turn

T = TypeVar("T")
_ERROR = {"env": StopReason.ENV_ERROR, "generate": StopReason.GENERATOR_ERROR}
_TIMEOUT = {"env": StopReason.ENV_TIMEOUT, "generate": StopReason.GENERATOR_TIMEOUT}


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

    Returns:
        The episode. Failures of the environment, the engine, the template or the clock are in it, as an
        infrastructure failure with `reward` None, together with the tokens up to there.

    Raises:
        asyncio.CancelledError: the caller cancelled; the environment is closed behind its back.
    """
    run = _Run(EnvRunner(make_env, executor), generator, chat, limits)
    started = time.monotonic()
    reward: float | None = None
    success, error = False, None
    try:
        stop_reason, success = await run.play(seed, dict(options or {}))
        reward = run.reward
    except _Failure as failure:
        stop_reason, error = failure.reason, str(failure)
    except BaseException:
        run.env.release()
        raise
    await run.env.close(limits.step_timeout_s)
    episode = Episode(
        env_id=env_id,
        seed=seed,
        options=dict(options or {}),
        prompt_ids=run.prompt_ids,
        response_ids=run.response_ids,
        response_mask=run.response_mask,
        rollout_log_probs=run.rollout_log_probs,
        turns=run.turns,
        reward=reward,
        success=success,
        stop_reason=stop_reason,
        error=error,
        timings={**run.timings, "total": time.monotonic() - started},
        extras=run.extras,
        numbers=run.numbers,
    )
    episode.check()
    assert len(episode.response_ids) <= limits.max_response_tokens, f"{len(episode.response_ids)} response tokens"
    return episode


class _Failure(Exception):
    """Ends the episode as an infrastructure failure."""

    def __init__(self, reason: StopReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _Run:
    """The growing trajectory of one episode."""

    def __init__(self, env: EnvRunner, generator: Generator, chat: ChatTokens, limits: Limits) -> None:
        self.env, self.generator, self.chat, self.limits = env, generator, chat, limits
        self.deadline = time.monotonic() + limits.episode_timeout_s
        self.prompt_ids: list[int] = []
        self.response_ids: list[int] = []
        self.response_mask: list[bool] = []
        self.rollout_log_probs: list[float] = []
        self.turns: list[Turn] = []
        self.extras: list[dict[str, Any]] = []
        self.reward = 0.0
        self.num_tool_calls = 0
        self.numbers: dict[str, float] = {}
        self.timings = {"generate": 0.0, "env": 0.0}

    async def play(self, seed: int | None, options: dict[str, Any]) -> tuple[StopReason, bool]:
        """The whole episode; returns why it stopped and whether it succeeded."""
        env, limits = self.env, self.limits
        await self._timed("env", "step_timeout_s", env.make)
        start = await self._timed("env", "step_timeout_s", partial(env.reset, seed, options))
        self._set_prompt(start)
        context: list[int] = []
        while True:
            generation = await self._generate(context)
            turn = self._append(context, generation)
            step = await self._timed("env", "step_timeout_s", partial(env.step, turn.text))
            self._record(turn, step)
            if step.terminated or step.truncated:
                return (StopReason.TERMINATED if step.terminated else StopReason.TRUNCATED), step.success
            if len(self.turns) >= limits.max_turns:
                return StopReason.MAX_TURNS, False
            if self.num_tool_calls > limits.max_tool_calls:
                return StopReason.MAX_TOOL_CALLS, False
            context = self._answer(turn, generation.token_ids)
            if len(self.response_ids) + len(context) >= limits.max_response_tokens:
                return StopReason.MAX_TOKENS, False

    def _set_prompt(self, start: EnvStart) -> None:
        self.prompt_ids = self._chat(
            lambda: self.chat.prompt(start.system_prompt, start.observation, start.tool_schemas)
        )
        limit = self.limits.max_prompt_tokens
        if limit is not None and len(self.prompt_ids) > limit:
            raise _Failure(
                StopReason.PROMPT_TOO_LONG,
                f"the prompt has {len(self.prompt_ids)} tokens, limits.max_prompt_tokens is {limit}; raise the limit "
                "or shorten the environment's system prompt, tools or first observation",
            )

    async def _generate(self, context: list[int]) -> Generation:
        limits = self.limits
        budget = limits.max_response_tokens - len(self.response_ids) - len(context)
        max_tokens = min(limits.max_turn_tokens, budget)
        assert max_tokens >= 1, f"no room for a token after {len(self.response_ids)} + {len(context)}"
        prompt = [*self.prompt_ids, *self.response_ids, *context]
        generation = await self._timed(
            "generate",
            "generate_timeout_s",
            lambda timeout: within(self.generator.generate(prompt, max_tokens), timeout),
        )
        try:
            return _checked(generation, max_tokens)
        except Exception as error:
            raise _Failure(StopReason.GENERATOR_ERROR, f"turn {len(self.turns) + 1}: {error}") from error

    def _append(self, context: list[int], generation: Generation) -> Turn:
        """Adds the context that prompted the turn, and the turn."""
        text = self._chat(lambda: self.chat.decode(generation.token_ids))
        if self.turns:
            self.turns[-1].observation_span = self._extend(context, [0.0] * len(context), sampled=False)
        span = self._extend(generation.token_ids, generation.log_probs, sampled=True)
        turn = Turn(token_span=span, text=text, finished=generation.finished)
        self.turns.append(turn)
        self.extras.append(dict(generation.extra))
        return turn

    def _extend(self, ids: list[int], log_probs: list[float], sampled: bool) -> tuple[int, int]:
        start = len(self.response_ids)
        self.response_ids += ids
        self.response_mask += [sampled] * len(ids)
        self.rollout_log_probs += log_probs
        return start, len(self.response_ids)

    def _record(self, turn: Turn, step: EnvStep) -> None:
        self.reward += step.reward
        self.numbers.update(step.numbers)
        self.num_tool_calls += step.num_tool_calls
        turn.reward, turn.role = step.reward, step.role
        turn.num_tool_calls, turn.malformed = step.num_tool_calls, step.malformed
        turn.observation = self._chat(lambda: self.chat.fit(step.observation, self.limits.max_observation_tokens))
        if not math.isfinite(self.reward):
            raise _Failure(StopReason.ENV_ERROR, f"the sum of the rewards is {self.reward} after {step.reward}")

    def _answer(self, turn: Turn, sampled: list[int]) -> list[int]:
        role, content = turn.role, turn.observation
        assert role is not None, "a turn that goes on has a role"
        assert content is not None, "a turn that goes on has an observation"
        return self._chat(
            lambda: self.chat.observation(role, content, model_turn_finished=self.chat.closes_turn(sampled, role))
        )

    def _chat(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:
            raise _Failure(StopReason.CHAT_ERROR, f"turn {len(self.turns)}: {describe(error)}") from error

    async def _timed(self, key: str, limit: str, call: Callable[[float], Coroutine[Any, Any, T]]) -> T:
        """Awaits a call with the time that it may take, and turns every way to fail into the episode's reason."""
        limit_s: float = getattr(self.limits, limit)
        number = len(self.turns) + (key == "generate")
        started = time.monotonic()
        left_s = self.deadline - started
        try:
            if left_s <= 0:
                raise TimedOut
            return await call(min(limit_s, left_s))
        except TimedOut:
            by_episode = left_s < limit_s
            name = "episode_timeout_s" if by_episode else limit
            seconds = getattr(self.limits, name)
            message = (
                f"turn {number}: {key} did not return within limits.{name} = {seconds} s; find what hangs or raise it"
            )
            raise _Failure(StopReason.EPISODE_TIMEOUT if by_episode else _TIMEOUT[key], message) from None
        except EnvRaised as error:
            reason = StopReason.VERIFIER_ERROR if error.undecided else StopReason.ENV_ERROR
            raise _Failure(reason, f"turn {number}: {error}") from error
        except Exception as error:
            raise _Failure(_ERROR[key], f"turn {number}: {key} failed: {describe(error)}") from error
        finally:
            self.timings[key] += time.monotonic() - started


def _checked(generation: Generation, max_tokens: int) -> Generation:
    """The engine's answer with plain numbers, or a ValueError that says what is wrong with it."""
    if not isinstance(generation, Generation):
        raise ValueError(f"the generator returned a {type(generation).__name__}; it must return a Generation")
    token_ids = [int(index) for index in generation.token_ids]
    log_probs = [float(value) for value in generation.log_probs]
    if not token_ids:
        raise ValueError("the generator returned no token; it must return at least the end-of-turn token")
    if len(token_ids) > max_tokens:
        raise ValueError(f"the generator returned {len(token_ids)} tokens, max_tokens was {max_tokens}")
    if len(log_probs) != len(token_ids):
        raise ValueError(
            f"the generator returned {len(log_probs)} log-probs for {len(token_ids)} tokens; each token needs one"
        )
    for position, value in enumerate(log_probs):
        if not math.isfinite(value):
            raise ValueError(f"the log-prob of sampled token {position} is {value}; it must be finite")
    return replace(generation, token_ids=token_ids, log_probs=log_probs)
