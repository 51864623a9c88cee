"""A pool of worker processes with a deadline for each job: a worker that hangs is killed and replaced."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trm_envs.errors import InfrastructureError
from trm_envs.tool_time import waiting

START_LIMIT_S = 60.0
# A worker that uses no processor time for this many deadlines on the clock is stalled: something outside holds it.
STALL_FACTOR = 20.0
MIN_STALL_S = 2.0
POLL_S = 0.05
# Signals from outside; a worker that a text breaks ends by another signal, or raises.
OUTSIDE_SIGNALS = frozenset([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
MAX_JOBS = 2000
MAX_REPLY_BYTES = 64 * 1024
MATH_WORKER = (sys.executable, str(Path(__file__).with_name("worker.py")))


class WorkerTimeout(Exception):
    """The worker was killed: it used up its processor time without a reply."""


class WorkerCrashed(Exception):
    """The worker ended, or wrote something other than a reply; the message has the details."""


class WorkerLost(WorkerCrashed):
    """The worker was killed or held from outside, twice; the request is not at fault."""


class WorkerPool:
    """A pool of processes that answer JSON lines, each for one thread at a time.

    Args:
        size: the largest number of processes at one time; they start when first needed.
        command: the worker's command line; it writes a line when it is ready, then a line for each one that it reads.
        max_jobs: the number of jobs after which a worker is replaced, so that its caches cannot grow without end.

    Raises:
        ValueError: if size or max_jobs is below 1.
    """

    def __init__(self, size: int, command: Sequence[str] = MATH_WORKER, max_jobs: int = MAX_JOBS) -> None:
        for name, value in (("size", size), ("max_jobs", max_jobs)):
            if value < 1:
                raise ValueError(f"WorkerPool: {name} is {value}; it must be 1 or more")
        self._size = size
        self._command = tuple(command)
        self._max_jobs = max_jobs
        self._changed = threading.Condition()
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        with self._changed:
            return [worker.process.pid for worker in self._workers]

    def call(self, request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """Send one request and return the reply. Safe to call from any number of threads.

        A request that fails is tried once more, on a fresh worker: the first may have been killed from outside, or be
        short of memory because of earlier requests.

        Args:
            request: the worker's task.
            deadline_s: the processor time that the worker may use for it, in seconds; a loaded machine makes no reply
                late. A worker that gets no processor at all is given up after 20 times as long on the clock.

        Raises:
            WorkerTimeout: if the processor time is used up, twice.
            WorkerLost: if workers are killed from outside or get no processor, twice.
            WorkerCrashed: if the worker ends by itself or writes junk, twice.
            RuntimeError: if the pool is closed; an InfrastructureError, if no process can be started.
        """
        with waiting():  # bounded by the deadline; a wait for a worker or a slow machine is charged to nobody
            try:
                return self._try(request, deadline_s, is_fresh=False)
            except (WorkerTimeout, WorkerCrashed):
                if self._is_closed:
                    raise
                return self._try(request, deadline_s, is_fresh=True)

    def _try(self, request: dict[str, Any], deadline_s: float, *, is_fresh: bool) -> dict[str, Any]:
        worker = self._acquire(is_fresh)
        is_healthy = False
        try:
            reply = worker.ask({**request, "deadline_s": deadline_s}, deadline_s)
            is_healthy = worker.num_jobs < self._max_jobs
        finally:
            self._release(worker, is_healthy)
        return reply

    def close(self) -> None:
        """Kill all workers; calls under way raise WorkerCrashed, later ones RuntimeError."""
        with self._changed:
            self._is_closed = True
            busy, idle = self._workers.difference(self._idle), self._idle
            self._workers, self._idle = set(), []
            self._changed.notify_all()
        for worker in idle:
            worker.kill()
        for worker in busy:
            worker.process.kill()  # its pipes are closed by the thread that reads from them

    def _acquire(self, is_fresh: bool) -> "_Worker":
        with self._changed:
            while not self._is_closed and not self._idle and len(self._workers) >= self._size:
                self._changed.wait()
            if self._is_closed:
                raise RuntimeError("the worker pool is closed; make a new WorkerPool")
            if not self._idle:
                return self._start()
            worker = min(self._idle, key=lambda idle: idle.num_jobs) if is_fresh else self._idle[-1]
            self._idle.remove(worker)
            if not is_fresh or worker.num_jobs == 0:
                return worker
            worker.kill()
            self._workers.discard(worker)
            return self._start()

    def _release(self, worker: "_Worker", is_healthy: bool) -> None:
        if not is_healthy or self._is_closed:
            worker.kill()
        with self._changed:
            if self._is_closed:
                worker.kill()
                return
            if not is_healthy:
                self._workers.discard(worker)
                # Started at once, waited for by the next caller: the import runs meanwhile.
                worker = self._start()
            self._idle.append(worker)
            self._changed.notify()

    def _start(self) -> "_Worker":
        worker = _Worker(self._command)
        self._workers.add(worker)
        return worker


class _Worker:
    """A worker process with its two pipes."""

    def __init__(self, command: Sequence[str]) -> None:
        # The worker reads untrusted text: it sees none of the parent's secrets, only the paths of the packages.
        path = os.pathsep.join(_installed_paths())
        environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        # A session of its own: Ctrl-C in the terminal is the parent's business.
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise InfrastructureError(f"no worker can be started: {error}") from error
        self.num_jobs = 0
        self._is_ready = False

    def ask(self, request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        if not self._is_ready:
            self._read_line(START_LIMIT_S)
            self._is_ready = True
        self.num_jobs += 1
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._obituary() from error
        line = self._read_line(deadline_s)
        try:
            reply = json.loads(line)
        except ValueError as error:
            raise WorkerCrashed(f"the worker wrote {line[:80]!r}, which is not JSON") from error
        if not isinstance(reply, dict):
            raise WorkerCrashed(f"the worker wrote {line[:80]!r}, which is not a JSON object")
        return reply

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _read_line(self, limit_s: float) -> bytes:
        """Return the line that the worker writes before it has used this much processor time."""
        assert self.process.stdout is not None
        before_s, start = _processor_s(self.process.pid), time.monotonic()
        descriptor = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        line = b""
        while not line.endswith(b"\n"):
            now_s = _processor_s(self.process.pid)
            # Without /proc, the clock is an upper bound.
            used_s = time.monotonic() - start if before_s is None or now_s is None else now_s - before_s
            left_s = limit_s - used_s
            if left_s <= 0:
                raise WorkerTimeout(f"no reply within {limit_s:g} s of processor time")
            if time.monotonic() - start > max(MIN_STALL_S, STALL_FACTOR * limit_s):
                raise WorkerLost(f"the worker is stalled: no reply in {time.monotonic() - start:.0f} s")
            if not poll.poll(max(POLL_S, min(left_s, 1.0)) * 1000):
                continue
            chunk = os.read(descriptor, MAX_REPLY_BYTES)
            line += chunk
            if not chunk:
                raise self._obituary()
            if len(line) > MAX_REPLY_BYTES:
                raise WorkerCrashed(f"the worker's reply is longer than {MAX_REPLY_BYTES} bytes")
        return line

    def _obituary(self) -> WorkerCrashed:
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:
            return WorkerCrashed("the worker closed its pipe")
        kind = WorkerLost if -code in OUTSIDE_SIGNALS else WorkerCrashed
        return kind(f"the worker ended with exit code {code}")


def _processor_s(pid: int) -> float | None:
    """Return the processor time that a process has used, in seconds; None if it cannot be read."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


_TICKS_S = os.sysconf("SC_CLK_TCK")


def _installed_paths() -> list[str]:
    """Return the folders of `sys.path` without the current one, whose files may be named like packages."""
    try:
        here = os.path.realpath(os.getcwd())
    except FileNotFoundError:
        here = ""
    return [entry for entry in sys.path if os.path.isabs(entry) and os.path.realpath(entry) != here]
