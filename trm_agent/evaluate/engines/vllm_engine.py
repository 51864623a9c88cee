"""Run vLLM in this process: one thread owns the engine and steps it, episodes await their turns.

`AsyncLLM` would run the engine in a process of its own, which vLLM spawns without an accelerator: each engine would
import vLLM again, 20 to 40 s, against 3 s for the second one here. An engine in the process also dies with it.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from trm_agent.episode import ChatSettings, chat_tokens
from trm_agent.evaluate.engines import on_cpu
from trm_agent.evaluate.engines.quiet import logging_to, output_to
from trm_agent.evaluate.engines.sampling import Sampling
from trm_agent.evaluate.engines.vllm_turns import VllmGenerator

# variables that vLLM reads when it is imported; a value that the user has set stays
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
CLOSE_TIMEOUT_S = 120.0


class VllmEngine:
    """A checkpoint in vLLM, made by `open_vllm`.

    Args:
        arguments: arguments of vLLM's `EngineArgs`.
        tokenizer: the model's.
        sampling: how tokens are drawn.
        chat: how the model's chat template is used; None for the default.
        threads: threads of its operators without a GPU; None for OpenMP's default.
    """

    at_once: int | None = None

    def __init__(
        self,
        arguments: Mapping[str, Any],
        tokenizer: Any,
        sampling: Sampling,
        chat: ChatSettings | None = None,
        threads: int | None = None,
    ) -> None:
        self.tokenizer, self.sampling = tokenizer, sampling
        self.chat = chat_tokens(tokenizer, chat)
        self._arguments, self._threads = dict(arguments), threads
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.create_future()
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self._failure: str | None = None
        # a daemon: a step that hangs must not keep the process alive
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)

    def generator(self, seed: int) -> VllmGenerator:
        """Return the player of one episode; see `Engine`."""
        return VllmGenerator(self, seed)

    async def start(self) -> None:
        """Load the model; returns when it can generate."""
        self._thread.start()
        await self._started

    async def close(self) -> None:
        """End the engine and free its memory; turns that still wait fail."""
        self._inbox.put(("close", None))
        ended = self._loop.run_in_executor(None, self._thread.join, CLOSE_TIMEOUT_S)
        try:
            await asyncio.shield(ended)
        finally:
            self._fail("the engine was closed")

    async def complete(self, prompt_ids: list[int], max_tokens: int, seed: int) -> Any:
        """Return vLLM's completion of a prompt; see `ask` for what it raises."""
        asked = {
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": seed,
            "max_tokens": max_tokens,
            # of the sampled token alone
            "logprobs": 0,
            "stop_token_ids": self.chat.stop_token_ids,
        }
        return (await self.ask(prompt_ids, asked)).outputs[0]

    async def ask(self, prompt_ids: list[int], asked: Mapping[str, Any]) -> Any:
        """Return vLLM's output for a prompt.

        Args:
            prompt_ids: tokens, one at least.
            asked: arguments of vLLM's `SamplingParams`.

        Raises:
            RuntimeError: the engine stopped.
            ValueError: vLLM refuses the prompt.
        """
        if self._failure is not None:
            raise RuntimeError(self._failure)
        name = str(next(self._numbers))
        future = self._waiting[name] = self._loop.create_future()
        # the engine reads it in its thread, also after a cancellation
        self._inbox.put(("add", (name, list(prompt_ids), dict(asked))))
        try:
            return await future
        except asyncio.CancelledError:
            self._inbox.put(("abort", name))
            raise
        finally:
            self._waiting.pop(name, None)

    def _run(self) -> None:
        """Run the thread: build, serve, tear down."""
        try:
            if self._threads is not None:
                # they are each thread's own
                on_cpu.set_threads(self._threads)
            from vllm.engine.arg_utils import EngineArgs
            from vllm.v1.engine.llm_engine import LLMEngine

            engine = LLMEngine.from_engine_args(EngineArgs(**self._arguments))
        except BaseException as error:
            self._post(self._end_start, error)
            return
        self._post(self._end_start, None)
        try:
            self._serve(engine)
        except BaseException as error:
            logging.getLogger("trm_agent").exception("vLLM failed")
            self._post(self._fail, f"vLLM stopped: {type(error).__name__}: {error}")
        finally:
            engine.engine_core.shutdown()
            del engine
            _free_memory()

    def _serve(self, engine: Any) -> None:
        playing: set[str] = set()
        while True:
            for kind, content in self._messages(wait=not engine.has_unfinished_requests()):
                if kind == "close":
                    return
                if kind == "abort":
                    if content in playing:
                        playing.remove(content)
                        engine.abort_request([content])
                elif self._add(engine, *content):
                    playing.add(content[0])
            done = [output for output in engine.step() if output.finished]
            playing.difference_update(output.request_id for output in done)
            if done:
                self._post(self._deliver, done)

    def _messages(self, wait: bool) -> Iterator[tuple[str, Any]]:
        if wait:
            yield self._inbox.get()
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._inbox.get_nowait()

    def _add(self, engine: Any, name: str, prompt_ids: list[int], asked: dict[str, Any]) -> bool:
        """Hand a prompt to vLLM; return whether it was accepted."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(**asked, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)
        try:
            engine.add_request(name, TokensPrompt(prompt_token_ids=prompt_ids), parameters)
        except Exception as error:  # a fault of this prompt, such as its length
            self._post(self._refuse, name, error)
            return False
        return True

    def _post(self, call: Any, *values: Any) -> None:
        # the loop may have ended before the thread
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *values)

    def _end_start(self, error: BaseException | None) -> None:
        if error is not None:
            self._failure = f"vLLM did not start: {error}"
        if not self._started.done():
            if error is None:
                self._started.set_result(None)
            else:
                self._started.set_exception(RuntimeError(f"{self._failure}; the log holds more"))

    def _deliver(self, outputs: list[Any]) -> None:
        for output in outputs:
            future = self._waiting.get(output.request_id)
            if future is not None and not future.done():
                future.set_result(output)

    def _refuse(self, name: str, error: Exception) -> None:
        future = self._waiting.get(name)
        if future is not None and not future.done():
            future.set_exception(ValueError(str(error)))

    def _fail(self, why: str) -> None:
        self._failure = self._failure or why
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(RuntimeError(self._failure))


@asynccontextmanager
async def open_vllm(
    folder: Path,
    tokenizer: Any,
    sampling: Sampling,
    settings: Mapping[str, Any],
    log_file: Path | None = None,
    chat: ChatSettings | None = None,
    threads: int | None = None,
) -> AsyncIterator[VllmEngine]:
    """Start vLLM on a Hugging Face folder and end it, whatever happens in between.

    Args:
        folder: the model's folder.
        tokenizer: the model's.
        sampling: how tokens are drawn.
        settings: arguments of vLLM's `EngineArgs` beyond those that are set here; a dtype of None is float32 without a
            GPU and the model's own with one.
        log_file: the file to which vLLM's output is appended; None for the screen.
        chat: how the model's chat template is used; None for the default.
        threads: threads of the engine's operators without a GPU; None for the user's OMP_NUM_THREADS, else as many as a
            run's engine has for the model.

    Raises:
        RuntimeError: vLLM does not start, or is of a version whose layers are not known.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    for name, value in {**ENVIRONMENT, **({} if on_gpu else on_cpu.ENVIRONMENT)}.items():
        os.environ.setdefault(name, value)
    cache = None if on_gpu else on_cpu.cache_of(folder, settings)
    arguments = {
        "model": str(folder),
        "enforce_eager": not on_gpu,
        # temperature 1 and the whole vocabulary unless asked, whatever generation_config.json says
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "logprobs_mode": "processed_logprobs",
        "use_tqdm_on_load": False,
        "seed": 0,
        **({} if cache is None else on_cpu.arguments(settings, cache)),
        **settings,
        "dtype": settings.get("dtype") or ("auto" if on_gpu else on_cpu.DTYPE),
    }
    threads = None if on_gpu else threads or on_cpu.threads_of(folder)
    with output_to(log_file):
        import vllm  # noqa: F401  (sets its logger up)

        if not on_gpu:
            on_cpu.patch_layers()
    with logging_to("vllm", log_file):
        with output_to(log_file):
            engine = VllmEngine(arguments, tokenizer, sampling, chat, threads)
            engine.at_once = None if cache is None else cache.sequences
            try:
                await engine.start()
            except BaseException:
                await engine.close()
                raise
        try:
            yield engine
        finally:
            await engine.close()


def _free_memory() -> None:
    """Release the engine's memory, so that the next one fits."""
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
