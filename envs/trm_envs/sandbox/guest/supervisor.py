"""PID 1 of one call or session: it starts the program, holds it to its limits, and tells the host what happened.

The verdict comes from the kernel (`wait4`), never from what the program prints.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import time
from typing import Any

from . import isolation, program, wire, work_files

WATCH_S = 0.05
"""How often the memory of all the call's processes is added up."""
_CHUNK = 1 << 16
_NEVER_WRITTEN = 1 | 2 | 4 | 8  # F_SEAL_SEAL, SHRINK, GROW, WRITE; not every build of Python names them


class Ends:
    """The descriptors between a supervisor and its program, both sides of each."""

    def __init__(self) -> None:
        self.stdin = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.channel, self.child_channel = socket.socketpair()
        (self.out, self.child_out), (self.err, self.child_err) = os.pipe(), os.pipe()

    def close_childs(self) -> None:
        """Close the program's side."""
        self.child_channel.close()
        os.close(self.child_out)
        os.close(self.child_err)

    def close(self) -> None:
        """Close both sides."""
        self.close_childs()
        self.channel.close()
        for fd in (self.stdin, self.out, self.err):
            os.close(fd)


class Program:
    """One program: its process, forked and confined ahead of its code, its pipes, and the channel to it."""

    def __init__(self, ends: Ends) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                for fd, target in ((ends.stdin, 0), (ends.child_out, 1), (ends.child_err, 2)):
                    os.dup2(fd, target)
                isolation.close_other_fds(ends.child_channel.fileno())
                program.run(ends.child_channel)
            finally:
                os._exit(70)
        ends.close_childs()
        self.stdin, self.channel, self.out, self.err = ends.stdin, ends.channel, ends.out, ends.err
        self.output: dict[int, bytearray] = {self.out: bytearray(), self.err: bytearray()}
        self.exit_status: int | None = None
        self.cpu_s = 0.0
        self.pid_fd = os.pidfd_open(self.pid)
        for fd in self.output:
            os.set_blocking(fd, False)

    def begin(self, request: "dict[str, Any]") -> None:
        """Set the limits of the request and hand over its code.

        Raises:
            OSError: if the process could not be confined or limited.
        """
        if (said := self.channel.recv(1000)) != program.READY:
            raise OSError(f"the program's process: {said.decode() or 'ended before its code'}")
        limits = request["limits"]
        isolation.limit_process(self.pid, limits, limits["session_cpu_s" if request["session"] else "cpu_s"])
        with open(self.stdin, "wb") as file:
            file.write(wire.unpack(request["stdin"]))
            file.flush()
            os.lseek(self.stdin, 0, os.SEEK_SET)
            fcntl.fcntl(self.stdin, fcntl.F_ADD_SEALS, _NEVER_WRITTEN)  # else it is memory that no limit counts
        wire.send(self.channel, {name: request[name] for name in ("code", "language", "session")})
        self.channel.settimeout(1.0)  # the other side is the program's: it may send half a message, or take none

    def go_on(self, code: str) -> None:
        """Wake a paused session and hand it the next cell; one that does not take it is killed."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGCONT)
        try:
            wire.send(self.channel, {"code": code})
        except OSError:
            os.kill(self.pid, signal.SIGKILL)

    def read(self, fd: int, limit: int) -> bool:
        """Take what the program has written to `fd`; return False once that is over `limit` or the pipe is closed."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return True
        self.output[fd] += data
        return bool(data) and len(self.output[fd]) <= limit

    def reap(self) -> None:
        """Collect ended processes, orphans included; note how the program itself ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.pid:
                    self.exit_status, self.cpu_s = status, usage.ru_utime + usage.ru_stime

    def end(self, limit: int) -> None:
        """Kill everything in the PID namespace and read what is left in the pipes."""
        while True:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            self.reap()
            try:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                break
        for fd in self.output:
            while self.read(fd, limit):
                pass
            os.close(fd)
        os.close(self.pid_fd)
        self.channel.close()


def serve(connection: socket.socket, first: Program) -> None:
    """Answer the host's requests, one of a call or many of a session, until it hangs up; never returns."""
    try:
        request = wire.receive(connection)
        limits = request["limits"]
        isolation.limit_disk(limits["disk_bytes"], limits["num_files"])
        running, is_new = first, True
        while True:
            answer, goes_on = _answer(connection, request, running, is_new)
            wire.send(connection, answer)
            if not request["session"]:
                break
            if not goes_on:
                running = Program(Ends())
            is_new = not goes_on
            request = wire.receive(connection)
    except (EOFError, OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            wire.send(connection, {"status": "sandbox_error", "message": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(0)  # PID 1: everything the program started dies with it


def _answer(
    connection: socket.socket, request: "dict[str, Any]", running: Program, is_new: bool
) -> "tuple[dict[str, Any], bool]":
    limits = request["limits"]
    for name, data in request["files"].items():
        work_files.write(name, wire.unpack(data))
    started = time.monotonic()
    if is_new:
        running.begin(request)
    else:
        running.go_on(request["code"])
    verdict = _watch(connection, running, request, started + limits["wall_s"])
    duration = time.monotonic() - started
    limit = limits["output_bytes"]
    goes_on = request["session"] and verdict in ("done", "raised")
    if goes_on:
        os.kill(-1, signal.SIGSTOP)  # nothing is used between the cells
    else:
        running.end(limit)
    out, err = (bytes(running.output[fd]) for fd in (running.out, running.err))
    answer: dict[str, Any] = {
        "status": verdict,
        "return_code": None,
        "duration_s": duration,
        "stdout": wire.pack(out[:limit]),
        "stderr": wire.pack(err[:limit]),
        "stdout_truncated": len(out) > limit,
        "stderr_truncated": len(err) > limit,
        "state_lost": request["session"] and not goes_on,
    }
    if verdict == "exited":
        _judge(answer, running, limits)
    elif verdict == "done":
        answer.update(status="ok", return_code=0)
    elif verdict == "raised":
        answer.update(status="error", return_code=1)
    if answer["return_code"] == 1 and err.rstrip().rpartition(b"\n")[2].startswith(b"MemoryError"):
        answer["status"] = "memory"
    answer["files"] = {}
    answer["missing"] = {}
    for name in request["outputs"]:
        try:
            answer["files"][name] = wire.pack(work_files.read(name, limits["file_bytes"]))
        except OSError as error:
            answer["missing"][name] = error.strerror or str(error)
    for buffer in running.output.values():
        buffer.clear()
    return answer, goes_on


def _judge(answer: "dict[str, Any]", running: Program, limits: "dict[str, Any]") -> None:
    status = running.exit_status or 0
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    answer.update(status="ok" if code == 0 else "error", return_code=code)
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and running.cpu_s >= limits["cpu_s"]):
        answer["status"] = "timeout"


def _watch(connection: socket.socket, running: Program, request: "dict[str, Any]", deadline: float) -> str:
    """Wait for the end; return "exited", "done", "raised", "timeout", "memory" or "output_limit".

    Raises:
        EOFError: if the host hangs up.
    """
    limits = request["limits"]
    poll = select.poll()
    for fd in (connection.fileno(), running.channel.fileno(), running.out, running.err, running.pid_fd):
        poll.register(fd, select.POLLIN)
    next_look = time.monotonic() + WATCH_S
    while True:
        now = time.monotonic()
        if now >= deadline:
            return "timeout"
        events = dict(poll.poll(max(0.0, min(next_look, deadline) - now) * 1000))
        for fd in running.output:
            if fd in events and not running.read(fd, limits["output_bytes"]):
                if len(running.output[fd]) > limits["output_bytes"]:
                    return "output_limit"
                poll.unregister(fd)
        if running.pid_fd in events:
            return "exited"
        if running.channel.fileno() in events:
            try:
                raised = wire.receive(running.channel, 1000)["raised"]
            except (EOFError, OSError, ValueError, KeyError, TypeError):
                poll.unregister(running.channel.fileno())
                continue
            return _drain(running, limits["output_bytes"]) or ("raised" if raised else "done")
        if connection.fileno() in events:
            raise EOFError("the host hung up")
        if time.monotonic() >= next_look:
            running.reap()
            if running.exit_status is not None:
                return "exited"
            if _memory_of_all(limits["memory_bytes"]) > limits["memory_bytes"]:
                return "memory"
            next_look = time.monotonic() + WATCH_S


def _drain(running: Program, limit: int) -> "str | None":
    """Read what a cell of a session has written before it said that it is done."""
    for fd in running.output:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while poll.poll(0):
            if not running.read(fd, limit):
                return "output_limit" if len(running.output[fd]) > limit else None
    return None


def _memory_of_all(limit: int) -> int:
    """Bytes of memory of all processes of the call: resident sizes, and if their sum is over `limit`, exact shares."""
    pids = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    resident = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/statm") as file:
            resident += int(file.read().split()[1]) * 4096
    if resident <= limit:
        return resident
    shares = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
            shares += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    return shares
