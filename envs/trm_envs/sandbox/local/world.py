"""A supervisor with its namespaces, as the host sees it."""

import dataclasses
import os
import select
import socket
import time
from typing import Any

from trm_envs.sandbox.guest import wire
from trm_envs.sandbox.guest.wire import Order, Verdict
from trm_envs.sandbox.interface import Result, Status
from trm_envs.sandbox.local import greeting
from trm_envs.sandbox.local.bubblewrap import NOBODY
from trm_envs.sandbox.local.cgroups import Groups
from trm_envs.sandbox.local.descriptors import in_memory, known, pipe_for
from trm_envs.sandbox.local.files import Disturbed, exchange
from trm_envs.sandbox.local.group import Group
from trm_envs.sandbox.local.line import Line
from trm_envs.sandbox.outcome import Streams, judge
from trm_envs.sandbox.request import Request

GRACE_S = 5.0
"""Seconds over the wall-clock limit in which a supervisor must have answered."""


class World:
    """The connection to one supervisor.

    Orders and verdicts go over it; code, input, output and files go past the supervisor, which must not see them.

    Args:
        connection: a SOCK_SEQPACKET socket.
        groups: the control groups, in one of which the supervisor is put.

    Raises:
        OSError: if the supervisor failed, or could not be put there.
    """

    def __init__(self, connection: socket.socket, groups: Groups) -> None:
        self._connection = connection
        self._line = Line(connection)
        self._groups = groups
        self._group = Group({}, "")  # of nothing, until the supervisor is known
        self._disk_bytes: int | None = None  # that the first request of a call or session was given
        known.add(self)
        self._streams: Streams | None = None  # of a session's program, between its cells
        self._has_run = False  # a program, since the world was new
        self.is_sound = True
        """False once the supervisor has not kept its deadline, or a program has kept it from its work: hang up."""
        try:
            pids = [greeting.sender(connection, GRACE_S) for _ in ("supervisor", "program")]
            self._group = groups.new()
            self._group.admit(pids)
        except OSError:
            self.close()
            raise

    def is_ready(self, patience_s: float) -> bool:
        """Return True once the supervisor that has served a call takes another one, False if it has ended.

        Raises:
            BlockingIOError: if it has not said within `patience_s`.
        """
        self._has_run, self._disk_bytes = False, None
        return self._line.is_ready(patience_s) and self._group.is_clean()

    def has_ended(self) -> bool:
        """Return True if the supervisor is gone."""
        return self._line.has_ended()

    def ask(self, request: Request) -> Result:
        """Have a request carried out.

        Raises:
            Refused: if the supervisor, which has served others before, waits no longer.
            OSError: if the sandbox failed.
            EOFError: if the supervisor is gone, or somebody hung up.
        """
        self._connection.settimeout(GRACE_S)
        group = self._group
        group.thaw()
        self._disk_bytes = self._disk_bytes or request.limits.disk_bytes
        started = time.monotonic()
        try:
            is_within = group.limit(request.limits, self._disk_bytes)
            result = self._carry_out(request) if is_within else None
        except (EOFError, ConnectionError):
            if not group.was_exceeded():
                raise
            result = None
        if result is None or (group.was_exceeded() and result.status is not Status.MEMORY):
            self.is_sound = False
            was = result or Result(Status.MEMORY, duration_s=min(time.monotonic() - started, request.limits.wall_s))
            return dataclasses.replace(was, status=Status.MEMORY, return_code=None, state_lost=request.session)
        if request.session and self.is_sound:
            group.freeze()
        return result

    def _carry_out(self, request: Request) -> Result:
        fetched: dict[str, Any] = {"files": {}, "missing": {}}
        if request.files:
            try:
                written = self._clerk(request, is_last=False, write=request.packed_files())
            except Disturbed as error:
                self.is_sound = False
                return Result(Status.ERROR, stderr=f"files: {error}", return_code=1, state_lost=request.session)
            if "error" in written and request.session:  # what is in the way is the session's own
                return Result(Status.ERROR, stderr=written["error"], return_code=1)
            if "error" in written:
                raise OSError(written["error"])
        has_outputs = bool(request.outputs)
        self._start(request, is_last=not (request.session or has_outputs))
        verdict = self._watch(request)
        if has_outputs and self.is_sound:
            try:
                fetched = self._clerk(request, is_last=not request.session, read=request.outputs)
            except Disturbed as error:
                self.is_sound = False
                verdict = verdict._replace(kind="exited", return_code=verdict.return_code or 1)
                fetched["missing"] = dict.fromkeys(request.outputs, str(error))
        return self._result(request, verdict, fetched)

    def end_session(self) -> bool:
        """Have the supervisor end a session and serve others; return False if it does not listen."""
        self._group.thaw()
        try:
            self._connection.send(Order(wire.END, True, True, False, False, *[0] * 8).packed())
        except OSError:
            return False
        self._close_streams()
        return True

    def thaw(self) -> None:
        """Let a paused session be killed."""
        self._group.thaw()

    def hang_up(self) -> None:
        """End it under a thread that waits for it; that thread is woken and closes it."""
        self._line.hang_up()

    def close(self) -> None:
        """Hang up, also if a child of this process has a copy of the connection; the kernel ends every process."""
        self.hang_up()
        self.forget()
        self._groups.discard(self._group)

    def forget(self) -> None:
        """Close the descriptors that lead there and leave it alone, as a child of the process that owns it."""
        self._connection.close()
        self._close_streams()

    def _start(self, request: Request, is_last: bool) -> None:
        code = request.code.encode("utf-8", "surrogateescape")
        ours: list[int] = []
        fds: list[int] = []
        try:
            fds.append(in_memory(code if self._streams else request.kind + code))
            if self._streams is None:
                for _ in ("stdout", "stderr"):
                    end, theirs = pipe_for(NOBODY)
                    ours.append(end)
                    fds.append(theirs)
                fds.append(in_memory(request.stdin))
                self._streams, ours = Streams(*ours), []
            self._line.send(self._order(wire.RUN, request, is_last), fds)
        finally:
            for fd in (*fds, *ours):
                os.close(fd)

    def _order(self, kind: bytes, request: Request, is_last: bool) -> Order:
        return request.order(kind, is_last, self._group.has("cpu", "freezer"), self._group.has("memory"))

    def _watch(self, request: Request) -> Verdict:
        """Take the program's output until the supervisor's verdict; return the verdict."""
        streams, limit = self._streams, request.limits.output_bytes
        self._has_run = True
        assert streams is not None
        deadline = time.monotonic() + request.limits.wall_s + GRACE_S
        connection = self._connection.fileno()
        poll = select.poll()
        for fd in (connection, streams.out, streams.err):
            poll.register(fd, select.POLLIN)
        is_over = False
        while True:
            events = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if not events:  # it is held up, which a program can bring about: that must not be worth its while
                self.is_sound = False
                verdict = Verdict("timeout", 0, 0.0, request.limits.wall_s + GRACE_S)
                break
            if connection in events:
                verdict = self._line.verdict()
                break
            for fd in events:
                if not streams.read(fd, limit):
                    poll.unregister(fd)
            if streams.is_over(limit) and not is_over:
                is_over = True
                self._line.stop()
        streams.read_all(limit)
        if verdict.kind in ("exited", "done", "raised") and streams.is_over(limit):
            if verdict.kind != "exited" and not is_over:
                self._line.stop()
            return verdict._replace(kind="output_limit")
        return verdict

    def _clerk(
        self, request: Request, is_last: bool, write: dict[str, str] | None = None, read: list[str] | None = None
    ) -> dict[str, Any]:
        """Have files written to the working folder, or read; return the answer."""
        limits = request.limits
        bounds = {"file_bytes": limits.file_bytes, "total_bytes": limits.disk_bytes}
        self._group.widen(limits.disk_bytes)
        order = self._order(wire.FILES, request, is_last)
        answer = exchange(self._line, order, {"write": write or {}, "read": read or [], **bounds}, self._has_run)
        if not self._group.narrow() and write:
            raise Disturbed("the session and its files hold more than the memory limit")
        return answer

    def _result(self, request: Request, verdict: Verdict, fetched: dict[str, Any]) -> Result:
        assert self._streams is not None
        texts = self._streams.take(request.limits.output_bytes)
        goes_on = verdict.kind in ("done", "raised")
        if not goes_on:
            self._close_streams()
        is_cpu_spent = verdict.cpu_s >= request.limits.cpu_s
        status, return_code = judge(verdict.kind, verdict.return_code, texts["stderr"], is_cpu_spent)
        return Result(
            status,
            **texts,
            return_code=return_code,
            duration_s=verdict.duration_s,
            files=fetched["files"],
            missing=fetched["missing"],
            state_lost=request.session and not goes_on,
        )

    def _close_streams(self) -> None:
        if self._streams is not None:
            self._streams.close()
            self._streams = None
