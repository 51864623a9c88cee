"""The agent loop of verl over `trm_agent.episode`: one object per trajectory, named `trm_env` in agent_loop.yaml."""

import copy
import functools
import json
import logging
import math
from pathlib import Path
from typing import Any
from uuid import uuid4

import transfer_queue as tq
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics

from trm_agent.episode import (
    ChatSettings,
    ChatTokens,
    Episode,
    Generation,
    Pauses,
    chat_tokens,
    run_episode,
    tune_garbage_collection,
)
from trm_agent.episode.outcomes import StopReason
from trm_agent.episode.record import task_name
from trm_agent.runs.failures import ending_name
from trm_agent.runs.progress import Counter
from trm_agent.tasks import TRAIN, make_env
from trm_agent.verl_plugin.rollout.contexts import UNKNOWN_CONTEXT, SentContext
from trm_agent.verl_plugin.rollout.distributions import (
    RECORD,
    RECORDED,
    EnvOutput,
    distribution_fields,
    record_field,
)
from trm_agent.verl_plugin.rollout.failed import DRAWN_OUTSIDE, DrawnOutside, report_failure
from trm_agent.verl_plugin.rollout.overlong import OVERLONG_PARTITION, is_masked, length_penalty, masked_tag
from trm_agent.verl_plugin.rollout.places import engine_place
from trm_agent.verl_plugin.rollout.play_settings import play_settings
from trm_agent.verl_plugin.rollout.resuming_client import ResumingClient
from trm_agent.verl_plugin.rollout.turn_seeds import TurnSeeds, turn_seeds
from trm_agent.verl_plugin.rollout.versions import VERSIONS, version_field

GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": -1}
# the fields kept of verl's extra fields of a turn
EXTRA_KEYS = ("min_global_steps", "max_global_steps", RECORDED, VERSIONS)
logger = logging.getLogger("trm_agent")


class ServerGenerator:
    """A `Generator` over verl's rollout servers.

    All turns of an episode carry one request id, so they reach the server that has their prefix in its cache. A server
    that keeps contexts gets what is new alone; another one gets the whole context with each turn.
    """

    def __init__(
        self,
        server_manager: Any,
        sampling_params: dict[str, Any],
        stop_token_ids: list[int],
        num_recorded: int = 0,
        counter: Counter | None = None,
        seeds: TurnSeeds | None = None,
        keeps_contexts: bool = False,
    ) -> None:
        self.server_manager = server_manager
        self.sampling_params = {**sampling_params, "stop_token_ids": stop_token_ids}
        if num_recorded:
            self.sampling_params[RECORD] = num_recorded
        self.stop_token_ids = frozenset(stop_token_ids)
        self.request_id = uuid4().hex
        self.counter = counter
        self.seeds, self.num_turns = seeds, 0
        self.pauses = Pauses()
        self.sent = SentContext(self.request_id) if keeps_contexts else None
        # verl's own clients know no pauses
        self.further = {"pauses": self.pauses} if isinstance(server_manager, ResumingClient) else {}

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Generation:
        sampling_params = {**self.sampling_params, "max_tokens": max_tokens}
        if self.seeds is not None:
            sampling_params["seed"] = self.seeds.at(self.num_turns)
        output = await self._ask(prompt_ids, sampling_params)
        if self.sent is not None and output.stop_reason == UNKNOWN_CONTEXT:
            self.sent.forget()
            output = await self._ask(prompt_ids, sampling_params)
        self.num_turns += 1
        token_ids = list(output.token_ids)
        if self.counter is not None:
            self.counter.add_turn(len(token_ids))
        return Generation(
            token_ids=token_ids,
            log_probs=list(output.log_probs or []),
            # the server calls a turn cut by max_tokens "completed" too
            finished=bool(token_ids) and token_ids[-1] in self.stop_token_ids,
            extra={key: output.extra_fields[key] for key in EXTRA_KEYS if key in output.extra_fields},
        )

    async def _ask(self, prompt_ids: list[int], sampling_params: dict[str, Any]) -> Any:
        given, place = (prompt_ids, {}) if self.sent is None else self.sent.send(prompt_ids)
        return await self.server_manager.generate(
            request_id=self.request_id, prompt_ids=given, sampling_params={**sampling_params, **place}, **self.further
        )


class EnvAgentLoop(AgentLoopBase):
    """An agent loop that plays one task of `EnvDataset` and hands the episode to verl.

    verl's constructor builds its own continuous-token builder for every trajectory; ours keeps tokens aligned by
    itself (`ChatTokens`), so it is not called.
    """

    def __init__(self, trainer_config: Any, server_manager: Any, tokenizer: Any, **_: Any) -> None:
        self.config = trainer_config.config
        self.server_manager = server_manager
        self.tokenizer = tokenizer
        tune_garbage_collection()

    async def run(self, sampling_params: dict[str, Any], **fields: Any) -> Any:
        """Play the task in `fields["env_task"]`.

        Returns:
            verl's output of the episode, or an empty list after an infrastructure failure and for a masked over-long
            episode: verl then stores no trajectory, which keeps it out of the loss and out of the group's baseline.
        """
        task = json.loads(fields["env_task"])
        settings = play_settings(self.config)
        chat = renderer(self.tokenizer, settings.chat)
        is_training = task["stream"] == TRAIN
        num = settings.num_recorded if is_training else 0
        counter = _counter(settings.run_dir)
        sampling_params = {**sampling_params, **GREEDY} if task.get("greedy") else sampling_params
        seeds = turn_seeds(settings.seed, task["stream"], fields)
        stops = list(chat.stop_token_ids)
        generator = ServerGenerator(
            self.server_manager, sampling_params, stops, num, counter, seeds, settings.keeps_contexts
        )
        env_kwargs = copy.deepcopy(settings.env_kwargs)
        async with engine_place(settings.places):
            episode = await run_episode(
                functools.partial(make_env, task["env_id"], settings.module, env_kwargs),
                generator,
                chat,
                settings.limits,
                env_id=task["env_id"],
                seed=task["seed"],
                options=task["options"],
                pauses=generator.pauses,
            )
        counter.add_episode(of_validation=not is_training)
        if episode.is_infrastructure_failure:
            await _lose(episode, episode.stop_reason, str(episode.error), task["stream"], fields["uid"])
            return []
        if is_training and is_masked(episode, settings.overlong):
            tag = masked_tag(fields["uid"], summary(episode))
            await tq.async_kv_put(key=uuid4().hex, partition_id=OVERLONG_PARTITION, tag=tag)
            return []
        try:
            arrays = distribution_fields(episode, num, settings.estimator) | version_field(episode)
        except DrawnOutside as error:
            told = f"request {generator.request_id}: {error}"
            await _lose(episode, DRAWN_OUTSIDE, told, task["stream"], fields["uid"])
            return []
        except ValueError as error:
            # what the server recorded does not fit its tokens
            await _lose(episode, StopReason.GENERATOR_ERROR, str(error), task["stream"], fields["uid"])
            return []
        if is_training and settings.keeps_record:
            arrays |= record_field(episode)
        penalty = 0.0
        if is_training:
            penalty = length_penalty(episode, settings.limits.max_response_tokens, settings.overlong)
        return to_output(episode, arrays, penalty)


async def _lose(episode: Episode, reason: str, error: str, stream: str, uid: str) -> None:
    """Report an episode as an infrastructure failure."""
    logger.warning("%s seed %d: %s: %s", episode.env_id, episode.seed, reason, error)
    await report_failure(stream, uid, str(reason), error, episode.late_turn_tokens)


@functools.cache
def _counter(run_dir: str) -> Counter:
    return Counter(Path(run_dir))


@functools.lru_cache(maxsize=4)
def renderer(tokenizer: Any, settings: str) -> ChatTokens:
    """Return the renderer, one for a tokenizer and settings, since it probes the chat template when it is built.

    Args:
        tokenizer: the model's.
        settings: those of `ChatSettings`, as JSON.
    """
    return chat_tokens(tokenizer, ChatSettings(**json.loads(settings)))


def to_output(episode: Episode, arrays: dict[str, Any], penalty: float = 0.0) -> EnvOutput:
    """Convert an episode to verl's output; `extra_fields.episode` feeds the `env/...` metrics.

    Args:
        episode: without an infrastructure failure.
        arrays: further fields of the training batch.
        penalty: what the reward loses for the episode's length.
    """
    told = summary(episode)
    if penalty:
        told["overlong_penalty"] = penalty
    versions = [extra for extra in episode.extras if extra.get("min_global_steps") is not None]
    return EnvOutput(
        prompt_ids=episode.prompt_ids,
        response_ids=episode.response_ids,
        response_mask=[int(sampled) for sampled in episode.response_mask],
        response_logprobs=episode.rollout_log_probs,
        reward_score=_less(episode.reward, penalty),
        num_turns=2 * episode.num_turns + 1,
        metrics=AgentLoopMetrics(
            generate_sequences=episode.timings["generate"],
            tool_calls=episode.timings["env"],
        ),
        extra_fields={
            # a validation hands on nothing else of an episode
            "reward_extra_info": {
                "acc": float(episode.success),
                "task": told["task"],
                "ending": ending_name(told),
            },
            "min_global_steps": min((extra["min_global_steps"] for extra in versions), default=None),
            "max_global_steps": max((extra["max_global_steps"] for extra in versions), default=None),
            "episode": told,
        },
        arrays=arrays,
    )


def _less(reward: float | None, penalty: float) -> float | None:
    return reward if reward is None or not penalty else reward - penalty


def summary(episode: Episode) -> dict[str, Any]:
    """Return the numbers of an episode that the metrics need, JSON-clean."""
    return {
        "task": task_name(episode.env_id, episode.seed, episode.options),
        "seed": episode.seed,
        "horizon": episode.options.get("horizon"),
        "success": bool(episode.success),
        "stop_reason": str(episode.stop_reason),
        "scorer_error": episode.scorer_error,
        "turns": episode.num_turns,
        "tool_calls": episode.num_tool_calls,
        "malformed_turns": episode.num_malformed,
        "cut_turns": sum(not turn.finished for turn in episode.turns),
        # the log-probs of tokens that the model did not sample are 0
        "nll": -math.fsum(episode.rollout_log_probs),
        "model_tokens": episode.num_model_tokens,
        "response_tokens": len(episode.response_ids),
        "generate_s": episode.timings["generate"],
        "env_s": episode.timings["env"],
        "paused_s": episode.timings.get("paused", 0.0),
        "numbers": episode.numbers,
    }
