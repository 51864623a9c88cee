"""The four ways in which rollout plays its episodes; each returns the probes' events."""

import asyncio
import functools
import os
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import rollout_probe as probe
from benchmarks.rollout_env import ENV_ID
from trm_agent.episode import Episode, Generation, Generator, chat_tokens, run_episode, tune_garbage_collection
from trm_agent.evaluate.engines import vllm_engine
from trm_agent.evaluate.engines.opening import load_tokenizer
from trm_agent.evaluate.engines.sampling import Sampling
from trm_agent.models.nano import NanoSpec, ensure_nano_model
from trm_agent.runs.chat import chat_settings, resolve_protocol
from trm_agent.runs.compose import compose_run, plain
from trm_agent.runs.deadlines import limits_of
from trm_agent.tasks import VALIDATION, make_env, task_at

NANO = "nano"
MAX_PROMPT, MAX_OBSERVATION, MARKUP = 512, 64, 16
# tokens of a turn; a tokenizer of words cuts a call into more
NANO_TURN, MAX_TURN = 32, 48
EXTENSIONS = "[trm_agent.verl_plugin.extension,benchmarks.rollout_server]"


@dataclass(frozen=True)
class Workload:
    """The episodes that every path plays."""

    model: str
    """`nano`, or the folder of a model."""
    episodes: int
    """Episodes of a batch, all at once."""
    turns: int
    """Turns of an episode."""
    delay_ms: float
    """Milliseconds that a turn waits for its tool."""
    batches: int
    """Batches, of which the first warms up."""

    @property
    def overrides(self) -> list[str]:
        """Return the overrides of a run of these episodes: validation batches after one small step."""
        most = NANO_TURN if self.model == NANO else MAX_TURN
        response = self.turns * (most + MAX_OBSERVATION + MARKUP)
        length = MAX_PROMPT + response
        fields: dict[str, Any] = {
            "env.module": "benchmarks.rollout_env",
            "env.id": ENV_ID,
            "+env.kwargs.turns": self.turns,
            "+env.kwargs.delay_ms": self.delay_ms,
            "env.train.horizons": "[4]",
            "env.val.horizons": "[4]",
            "env.val.num_tasks": self.episodes * self.batches,
            "env.limits.max_turns": self.turns,
            "env.limits.max_tool_calls": 64 * self.turns,
            "env.limits.max_turn_tokens": most,
            "env.limits.max_observation_tokens": MAX_OBSERVATION,
            "data.max_prompt_length": MAX_PROMPT,
            "data.max_response_length": response,
            "data.train_batch_size": 1,
            "data.val_batch_size": self.episodes,
            "actor_rollout_ref.rollout.n": 2,
            "actor_rollout_ref.rollout.max_model_len": length,
            "actor_rollout_ref.rollout.max_num_seqs": self.episodes,
            "actor_rollout_ref.rollout.max_num_batched_tokens": max(length, 4096),
            "actor_rollout_ref.actor.ppo_mini_batch_size": 1,
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 1,
            "actor_rollout_ref.actor.optim.lr": 1e-12,
            "trainer.val_before_train": False,
            "trainer.total_training_steps": 1,
            "trainer.test_freq": 1,
            "trainer.save_freq": -1,
        }
        if self.model == NANO:
            # the model of the plain environment
            fields |= {"nano.env_id": "trm/ChainMath-v0", "nano.env_module": "null"}
            fields |= {"nano.env_kwargs": "{protocol:auto,reveal:stepwise}"}
        else:
            fields |= {"model": "hub", "actor_rollout_ref.model.path": self.model}
        return [f"{name}={value}" for name, value in fields.items()]


class Scripted:
    """The turns of a recorded episode, at no cost."""

    def __init__(self, episode: Episode) -> None:
        self._turns = iter(episode.turns)
        self._episode = episode

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Generation:
        """Return the next recorded turn."""
        turn, episode = next(self._turns), self._episode
        span = slice(*turn.token_span)
        return Generation(episode.response_ids[span], episode.rollout_log_probs[span], finished=turn.finished)


class ProbedEngine(vllm_engine.VllmEngine):
    """The engine of `trm eval`, whose thread also runs a function on the bare engine."""

    bare: Any = None

    async def run(self, function: Any) -> None:
        """Run `function(engine)` in the engine's thread."""
        done = asyncio.get_running_loop().create_future()
        self._inbox.put(("run", (function, done)))
        await done

    def _serve(self, engine: Any) -> None:
        self.bare = engine
        super()._serve(engine)

    def _messages(self, wait: bool) -> Any:
        for kind, content in super()._messages(wait):
            if kind != "run":
                yield kind, content
                continue
            function, done = content
            try:
                function(self.bare)
            finally:
                self._post(done.set_result, None)


class Paths:
    """The paths in this process, over one configuration and one engine."""

    def __init__(self, workload: Workload) -> None:
        config = compose_run(["experiment=math_nano", *workload.overrides])
        if workload.model == NANO:
            config.actor_rollout_ref.model.path = str(ensure_nano_model(NanoSpec(**plain(config.nano))))
        resolve_protocol(config)
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1" if workload.model == NANO else "4")
        self.workload, self.config = workload, config
        self.folder = Path(config.actor_rollout_ref.model.path)
        self.tokenizer = load_tokenizer(str(self.folder))
        self.chat = chat_tokens(self.tokenizer, chat_settings(config))
        self.limits = limits_of(config)
        env = plain(config.env)
        self.tasks = [task_at(env, VALIDATION, index) for index in range(workload.episodes * workload.batches)]
        self.make = functools.partial(make_env, ENV_ID, env["module"], env["kwargs"])
        tune_garbage_collection()

    async def play(self, generators: Sequence[Generator]) -> list[Episode]:
        """Play all batches, one after the other; the episodes of one begin at once."""
        size, episodes = self.workload.episodes, []
        for first in range(0, len(self.tasks), size):
            probe.note(probe.BATCH_OUT)
            here = range(first, first + size)
            episodes += await asyncio.gather(*(self._episode(index, generators[index]) for index in here))
            probe.note(probe.BATCH_IN)
        return episodes

    async def _episode(self, index: int, generator: Generator) -> Episode:
        task = self.tasks[index]
        episode = await run_episode(
            self.make, generator, self.chat, self.limits, env_id=ENV_ID, seed=task.seed, options=task.options
        )
        if episode.is_infrastructure_failure:
            raise RuntimeError(f"an episode of the benchmark failed: {episode.stop_reason}: {episode.error}")
        probe.note_episode(episode)
        return episode

    async def all(self, log: Path) -> dict[str, list[probe.Event]]:
        """Return the events of the three paths in this process."""
        import vllm.v1.engine.core  # noqa: F401  (what is probed must be loaded)

        probe.install()
        rollout = self.config.actor_rollout_ref.rollout
        settings = {"max_model_len": rollout.max_model_len, "max_num_seqs": rollout.max_num_seqs}
        with _probed():
            async with vllm_engine.open_vllm(
                self.folder, self.tokenizer, Sampling(), settings, log, chat_settings(self.config)
            ) as engine:
                assert isinstance(engine, ProbedEngine)
                probe.take()
                episodes = await self.play([engine.generator(task.seed) for task in self.tasks])
                events = {"in the caller": probe.take()}
                size = self.workload.episodes
                parts = [episodes[first : first + size] for first in range(0, len(episodes), size)]
                for part in parts:
                    await engine.run(functools.partial(play_alone, episodes=part))
                events["engine alone"] = probe.take()
        await self.play([Scripted(episode) for episode in episodes])
        return events | {"scripted": probe.take()}


@contextmanager
def _probed() -> Any:
    """Let `open_vllm` make an engine with probes."""
    plain_class = vllm_engine.VllmEngine
    # by name: for a type checker a class is no variable
    setattr(vllm_engine, "VllmEngine", ProbedEngine)  # noqa: B010
    try:
        yield
    finally:
        setattr(vllm_engine, "VllmEngine", plain_class)  # noqa: B010


def play_alone(engine: Any, episodes: Sequence[Episode]) -> None:
    """Have vLLM sample as many tokens as each turn has, in the order of dependence, from contexts of the same length.

    Each prompt is its own: the tokens sampled before, and the recorded text of the environment.
    """
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    contexts = [list(episode.prompt_ids) for episode in episodes]
    done = [0] * len(episodes)
    started = probe.time.monotonic()

    def ask(index: int) -> None:
        start, stop = episodes[index].turns[done[index]].token_span
        parameters = SamplingParams(
            temperature=1.0,
            max_tokens=stop - start,
            logprobs=0,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        probe.note(probe.ENGINE_IN)
        name = f"{started}-{index}-{done[index]}"
        engine.add_request(name, TokensPrompt(prompt_token_ids=list(contexts[index])), parameters)

    probe.note(probe.BATCH_OUT)
    for index in range(len(episodes)):
        ask(index)
    while engine.has_unfinished_requests():
        for output in engine.step():
            if not output.finished:
                continue
            probe.note(probe.ENGINE_OUT)
            index = int(output.request_id.split("-")[1])
            episode = episodes[index]
            turns, stop = episode.turns, episode.turns[done[index]].token_span[1]
            done[index] += 1
            if done[index] < len(turns):
                said = episode.response_ids[stop : turns[done[index]].token_span[0]]
                contexts[index] += [*output.outputs[0].token_ids, *said]
                ask(index)
                continue
            values = (probe.time.monotonic() - started, 0.0, len(turns), episode.num_model_tokens)
            for name, value in zip((probe.EPISODE, probe.ENV, probe.TURNS, probe.TOKENS), values, strict=True):
                probe.note(name, float(value))
    probe.note(probe.BATCH_IN)


def full_stack(workload: Workload, overrides: Sequence[str] = ()) -> list[probe.Event]:
    """Return the events of a training run, with overrides, that validates on the episodes after one small step."""
    from benchmarks.common import train

    trace = Path(tempfile.mkdtemp(prefix="trm-benchmark-trace-"))
    os.environ[probe.FOLDER] = str(trace)
    try:
        train(
            *workload.overrides,
            f"actor_rollout_ref.model.external_lib={EXTENSIONS}",
            "actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls="
            "benchmarks.rollout_worker.ProbedWorkerExtension",
            *overrides,
        )
    finally:
        del os.environ[probe.FOLDER]
    return probe.read(trace)
