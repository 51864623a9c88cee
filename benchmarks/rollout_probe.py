"""Probes of rollout: the moments at which a turn passes from one hop to the next.

A probe notes a seam's name and the time on the machine's one monotonic clock. No id is needed to join the processes:
where a seam was passed once by every turn, the mean time between two seams is the difference of their mean times. So a
seam that a stack does not have, or passes another number of times, is left out, and its neighbours still measure.

Probes are wrappers around methods, by class and name, installed by what the benchmark alone names: the environment's
module, `external_lib` and the engine's worker extension. In a process of a training run they are written to the folder
that `TRM_BENCHMARK_TRACE` names; elsewhere `take` returns them.
"""

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "TRM_BENCHMARK_TRACE"
FLUSH_S = 0.3
# seams, in the order in which a turn passes them
ASKED, SENT, SERVER_IN, ENGINE_IN, CORE_IN = "asked", "sent", "server in", "engine in", "core in"
CORE_OUT, ENGINE_OUT, SERVER_OUT, ANSWERED = "core out", "engine out", "server out", "answered"
# a step of the engine: its seconds, the sequences in it
STEP, SEQUENCES = "step", "sequences"
# an episode that ended: its seconds in all and in the environment, its turns and sampled tokens
EPISODE, ENV, TURNS, TOKENS = "episode", "env", "turns", "tokens"
# the trainer hands a batch to the agent loops, and has it back
BATCH_OUT, BATCH_IN = "batch out", "batch in"

Event = tuple[str, float, float]
"""Name, seconds on the monotonic clock, value."""
_events: list[Event] = []
_writer: tuple[int, threading.Thread] | None = None
_lock = threading.Lock()


def note(name: str, value: float = 0.0, at: float | None = None) -> None:
    """Note one event, now unless said otherwise."""
    _events.append((name, time.monotonic() if at is None else at, value))
    # a fork has the events' list, but not the thread
    if FOLDER in os.environ and (_writer is None or _writer[0] != os.getpid()):
        _start_writer()


def note_episode(episode: Any) -> None:
    """Note an episode that ended now."""
    at = time.monotonic()
    values = (episode.timings["total"], episode.timings["env"], episode.num_turns, episode.num_model_tokens)
    for name, value in zip((EPISODE, ENV, TURNS, TOKENS), values, strict=True):
        note(name, float(value), at)


def take() -> list[Event]:
    """Return this process's events so far, and forget them."""
    number = len(_events)
    taken = _events[:number]
    del _events[:number]
    return taken


def read(folder: Path) -> list[Event]:
    """Return the events that all processes of a run have written."""
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [(name, at, value) for name, at, value in map(json.loads, lines)]


def _start_writer() -> None:
    global _writer
    with _lock:
        if _writer is not None and _writer[0] == os.getpid():
            return
        # the events of the process before the fork are its own
        del _events[:-1]
        _writer = (os.getpid(), threading.Thread(target=_write, name="probe", daemon=True))
        _writer[1].start()


def _write() -> None:
    with (Path(os.environ[FOLDER]) / f"{os.getpid()}.jsonl").open("a") as file:
        while True:
            time.sleep(FLUSH_S)
            file.writelines(f"{json.dumps(event)}\n" for event in take())
            file.flush()


def _coroutine(method: Callable[..., Any], before: str | None, after: str | None) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Any:
        if before:
            note(before)
        try:
            return await method(*args, **kwargs)
        finally:
            if after:
                note(after)

    return call


def _function(method: Callable[..., Any], before: str | None, after: str | None) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if before:
            note(before)
        try:
            return method(*args, **kwargs)
        finally:
            if after:
                note(after)

    return call


def _outputs(method: Callable[..., Any], before: str | None, after: str | None) -> Callable[..., Any]:
    """Wrap a generator of a request's outputs."""

    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Any:
        note(str(before))
        async for output in method(*args, **kwargs):
            if output.finished:
                note(str(after))
            yield output

    return call


def _engine_step(method: Callable[..., Any], before: str | None, after: str | None) -> Callable[..., Any]:
    """Wrap the engine's step: its time, its sequences, and the requests that it finishes."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.monotonic()
        by_client, executed = method(*args, **kwargs)
        end = time.monotonic()
        outputs = [output for group in (by_client or {}).values() for output in group.outputs]
        if executed:
            note(STEP, end - start, end)
            note(SEQUENCES, float(len(outputs)), end)
        for output in outputs:
            if output.finish_reason is not None:
                note(str(after), at=end)
        return by_client, executed

    return call


def _ended_episode(function: Callable[..., Any], before: str | None, after: str | None) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(episode: Any, *args: Any, **kwargs: Any) -> Any:
        note_episode(episode)
        return function(episode, *args, **kwargs)

    return call


# module, class or nothing for a function of the module, name, kind of the wrapper, seams before and after
_AGENT_LOOP = "trm_agent.verl_plugin.rollout.agent_loop"
_SERVER = "verl.workers.rollout.vllm_rollout.vllm_async_server"
PROBES = (
    (_AGENT_LOOP, "ServerGenerator", "generate", _coroutine, ASKED, ANSWERED),
    (_AGENT_LOOP, None, "to_output", _ended_episode, None, None),
    ("trm_agent.evaluate.engines.vllm_turns", "VllmGenerator", "generate", _coroutine, ASKED, ANSWERED),
    ("trm_agent.evaluate.engines.vllm_engine", "VllmEngine", "complete", _coroutine, ENGINE_IN, ENGINE_OUT),
    ("verl.workers.rollout.llm_server", "LLMServerClient", "_vllm_request_id", _function, SENT, None),
    (_SERVER, "vLLMHttpServer", "generate", _coroutine, SERVER_IN, SERVER_OUT),
    ("vllm.v1.engine.async_llm", "AsyncLLM", "generate", _outputs, ENGINE_IN, ENGINE_OUT),
    ("vllm.v1.engine.core", "EngineCore", "add_request", _function, None, CORE_IN),
    ("vllm.v1.engine.core", "EngineCore", "step", _engine_step, None, CORE_OUT),
    ("verl.trainer.ppo.v1.agent_loop_tq", "AgentLoopManagerTQ", "generate_sequences", _function, BATCH_OUT, None),
    ("trm_agent.verl_plugin.driver.replay_buffer", "EnvReplayBuffer", "sample", _function, None, BATCH_IN),
)


def install() -> None:
    """Wrap the methods of those modules that this process has loaded; once each, however often it is called."""
    for module, owner, name, wrap, before, after in PROBES:
        place = sys.modules.get(module)
        if place is not None and owner is not None:
            place = getattr(place, owner, None)
        method = getattr(place, name, None)
        if method is None or hasattr(method, "trm_probe"):
            continue
        wrapped = wrap(method, before, after)
        wrapped.trm_probe = True  # type: ignore[attr-defined]
        setattr(place, name, wrapped)
