"""A process beside the server that reads long bodies: decoding one holds an interpreter for a second or more."""

import asyncio
import contextlib
import ctypes
import os
import pickle
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from trm_envs.sandbox.fusion.bounds import Bounds
from trm_envs.sandbox.fusion.decoding import BadField
from trm_envs.sandbox.fusion.jobs import Job, read_job
from trm_envs.sandbox.interface import Limits

SHORT_BYTES = 1 << 16
"""Length of a body up to which it is read at once."""
PATIENCE_S = 20.0
"""Seconds for one body, the start of the process included."""
MEMORY_FACTOR = 16
"""Address space of the process: so many times the longest body, and what the interpreter needs."""
_MMAP_THRESHOLD = -3
"""The number of glibc's M_MMAP_THRESHOLD."""
_START = "import sys; sys.path[:] = {!r}; from trm_envs.sandbox.fusion.workbench import main; main({})"


class Workbench:
    """Reads jobs from bodies: short ones at once, long ones in a process, one after another.

    Args:
        base: the limits where a request names none.
        most: the largest limits that a request may name.
        bounds: the server's limits.
    """

    def __init__(self, base: Limits, most: Limits, bounds: Bounds) -> None:
        self._arguments = (base, most, bounds)
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trm-sandbox-reader")
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    async def read(self, path: str, data: bytes | bytearray) -> Job:
        """Return the job of a request's body; see `read_job`.

        Raises:
            BadField: if the body or a field is not allowed.
        """
        if len(data) <= SHORT_BYTES:
            return read_job(path, data, *self._arguments)
        async with self._turn:
            reading = asyncio.get_running_loop().run_in_executor(self._thread, self._ask, path, data)
            try:
                answer = await asyncio.shield(reading)
            except asyncio.CancelledError:
                await asyncio.wait({reading})  # it holds the body until then
                raise
        if isinstance(answer, Job):
            return answer
        raise BadField(*answer)

    def prepare(self) -> None:
        """Start the process ahead of the first long body."""
        self._process = self._process or self._start()

    def close(self) -> None:
        """End the process; a body that is read meanwhile is given up."""
        self._is_closed = True
        self._end()
        self._thread.shutdown(wait=False)

    def _ask(self, path: str, data: bytes | bytearray) -> Any:
        for _ in range(2):  # a process that something else has killed is not the body's fault
            if self._is_closed:
                break
            with contextlib.suppress(OSError, EOFError, ValueError):  # the last: of a pipe that `close` has closed
                return self._ask_once(path, data)
            self._end()
        if self._is_closed:
            return "body", "was not read, for this server ends"
        return "body", "takes more time or memory to read than this server has for it"

    def _ask_once(self, path: str, data: bytes | bytearray) -> Any:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(PATIENCE_S, process.kill)
        timer.start()
        try:
            _send(process.stdin, pickle.dumps((path, len(data), self._arguments)))
            process.stdin.write(data)
            process.stdin.flush()
            return pickle.loads(_receive(process.stdout))
        finally:
            timer.cancel()

    def _start(self) -> "subprocess.Popen[bytes]":
        bytes_allowed = MEMORY_FACTOR * self._arguments[2].body_bytes + (1 << 30)
        folders = [os.path.abspath(each) for each in sys.path if each]  # not the current folder
        command = [sys.executable, "-I", "-c", _START.format(folders, bytes_allowed)]
        environment = {"PATH": os.defpath, "LANG": "C.UTF-8"}  # none of the server's secrets
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, start_new_session=True)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


def give_memory_back() -> None:
    """Have long texts and bodies leave this process with their end; by default the C library keeps them for others."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, SHORT_BYTES)


def main(memory_bytes: int) -> None:
    """Answer until the standard input ends: a head, then the body; back a `Job`, or a field and why it is refused."""
    give_memory_back()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            path, length, arguments = pickle.loads(_receive(requests))
            answer: Any
            try:
                answer = read_job(path, _exactly(requests, length), *arguments)
            except BadField as error:
                answer = (error.field, error.message)
            except Exception as error:  # such as a MemoryError
                answer = ("body", f"cannot be read: {type(error).__name__}")
            _send(answers, pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
            del answer


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(len(data).to_bytes(8, "big"))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    return _exactly(stream, int.from_bytes(_exactly(stream, 8), "big"))


def _exactly(stream: IO[bytes], number: int) -> bytes:
    data = stream.read(number)
    if len(data) < number:
        raise EOFError
    return data
