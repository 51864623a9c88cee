"""vLLM's engine in a thread of the server's process, where vLLM's own server always starts a process.

Inputs and outputs go through queues as they are: nothing is packed, sent or unpacked. Written for vLLM 0.27.1; see
`patches.engine_in_thread`.
"""

import asyncio
import os
import threading
import uuid
from collections.abc import Callable
from queue import Queue
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.v1.engine import EngineCoreOutputs, EngineCoreRequest, EngineCoreRequestType
from vllm.v1.engine.core import EngineCore, EngineCoreProc, EngineShutdownState
from vllm.v1.engine.core_client import AsyncMPClient, _process_utility_output
from vllm.v1.engine.exceptions import EngineDeadError

logger = init_logger(__name__)


class _Outlet:
    """The end of a queue that the engine writes to; each item goes to a function."""

    def __init__(self, deliver: Callable[[Any], None]) -> None:
        self.put_nowait = deliver


class EngineInThread(EngineCoreProc):
    """vLLM's busy loop with its rules for pausing and aborting, without sockets.

    Args:
        deliver: called in the engine's thread with (client, outputs), or with `ENGINE_CORE_DEAD`.
    """

    def __init__(
        self, vllm_config: VllmConfig, executor_class: Any, log_stats: bool, deliver: Callable[[Any], None]
    ) -> None:
        self.input_queue: Queue = Queue()
        self.output_queue: Any = _Outlet(deliver)
        self.engine_index, self.last_counts = 0, (0, 0)
        self.engines_running = self.has_coordinator = self.publish_dp_lb_stats = self.enable_fault_tolerance = False
        self.shutdown_state = EngineShutdownState.RUNNING
        self.process_input_queue_block = True
        failed = (EngineCoreRequestType.EXECUTOR_FAILED, b"")
        EngineCore.__init__(self, vllm_config, executor_class, log_stats, lambda: self.input_queue.put_nowait(failed))


# vLLM's tracing decorates the constructor of the class above, and hides its arguments from a type checker
_build: Any = EngineInThread


class ThreadClient(AsyncMPClient):
    """The client of an engine in a thread of this process, with the methods of the client of an engine process."""

    def __init__(self, vllm_config: VllmConfig, executor_class: Any, log_stats: bool) -> None:
        self.vllm_config, self.client_index, self.core_engine = vllm_config, 0, b""
        self.resources: Any = SimpleNamespace(engine_dead=False)
        self.engine_ranks_managed, self.engines_running = [0], False
        self.outputs_queue: asyncio.Queue = asyncio.Queue()
        self.utility_results: dict[int, Any] = {}
        self._loop = asyncio.get_running_loop()
        ready: Queue = Queue()
        self._thread = threading.Thread(
            target=self._run, args=(ready, vllm_config, executor_class, log_stats), name="EngineCore", daemon=True
        )
        self._thread.start()
        # as with a process, nothing else happens here before the engine is ready
        made = ready.get()
        if isinstance(made, BaseException):
            raise RuntimeError("the engine could not be built") from made
        self._engine: EngineInThread = made

    def _run(self, ready: Queue, vllm_config: VllmConfig, executor_class: Any, log_stats: bool) -> None:
        # after a fork the number of the process that forked would count
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
        try:
            engine = _build(vllm_config, executor_class, log_stats, self._deliver)
        except BaseException as error:
            ready.put(error)
            return
        ready.put(engine)
        try:
            engine.run_busy_loop()
        except SystemExit:
            pass
        except Exception:
            logger.exception("the engine has failed")
            self._deliver(EngineCoreProc.ENGINE_CORE_DEAD)
        finally:
            engine.shutdown()

    def _deliver(self, item: Any) -> None:
        # a loop that is closed has nobody left who waits
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._receive, item)

    def _receive(self, item: Any) -> None:
        if item == EngineCoreProc.ENGINE_CORE_DEAD:
            self.resources.engine_dead = True
            self.outputs_queue.put_nowait(EngineDeadError())
            for future in self.utility_results.values():
                if not future.done():
                    future.set_exception(EngineDeadError())
            return
        outputs: EngineCoreOutputs = item[1]
        if outputs.utility_output:
            _process_utility_output(outputs.utility_output, self.utility_results)
        elif outputs.outputs or outputs.scheduler_stats:
            self.outputs_queue.put_nowait(outputs)

    def _ensure_output_queue_task(self) -> None:
        """Do nothing: outputs come by themselves."""

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        self.ensure_alive()
        request.client_index = self.client_index
        self._engine.input_queue.put_nowait((EngineCoreRequestType.ADD, self._engine.preprocess_add_request(request)))

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        if request_ids and not self.resources.engine_dead:
            self._engine.aborts_queue.put_nowait(request_ids)
            self._engine.input_queue.put_nowait((EngineCoreRequestType.ABORT, request_ids))

    async def _call_utility_async(self, method: str, *args: Any, engine: bytes) -> Any:
        self.ensure_alive()
        call_id, future = uuid.uuid1().int >> 64, self._loop.create_future()
        self.utility_results[call_id] = future
        request = self.client_index, call_id, method, args
        self._engine.input_queue.put_nowait((EngineCoreRequestType.UTILITY, request))
        return await future

    def shutdown(self, timeout: float | None = None) -> None:
        if self._thread.is_alive():
            self._engine.shutdown_state = EngineShutdownState.REQUESTED
            self._engine.input_queue.put_nowait((EngineCoreRequestType.WAKEUP, None))
            # a collection of garbage in the engine's thread may be what calls
            if threading.current_thread() is not self._thread:
                self._thread.join(timeout)
