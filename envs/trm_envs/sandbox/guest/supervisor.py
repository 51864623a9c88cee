"""PID 1 of namespaces that serve one call or session at a time: it starts the program and holds it to its limits.

It sees numbers: limits, exit statuses, times. Code, input, output and files go past it, by descriptor, so that its
memory, which every program inherits, holds nothing of an earlier call. The verdict comes from the kernel (`wait4`),
never from what the program prints.

Every page of memory that PID 1 writes after a fork is copied; it does without what touches many.
"""

import contextlib
import os
import select
import signal
import socket
import time

from . import clerk, flight, isolation, memory, pipes, program, rest, wire
from .questions import Questions
from .shares import Share

MAX_CALLS = 100
"""Number of calls that one PID 1 serves."""
IDLE_S = 5.0
"""Longest wait for another call."""
REST_S = 1.0
"""Interval of looking whether a session still rests."""


class Program:
    """One program: its process, forked and confined ahead of its code, and the channel to it.

    Args:
        host: the connection over which the process tells the host that it is there; None for one that is born in the
            supervisor's control group.
    """

    def __init__(self, host: "socket.socket | None" = None) -> None:
        self.channel, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if host is not None:
                    host.send(wire.HERE)
                os.setpgid(0, 0)  # no session: the kernel would schedule it as an equal of all of the host's process
                isolation.close_other_fds(theirs.fileno())
                program.run(theirs)
            finally:
                os._exit(70)
        theirs.close()
        self.said: bytes | None = None
        self.questions: Questions | None = None
        self.flight = flight.Flight()
        self.share = Share()
        self.memory = memory.Use()
        self.exit_status: int | None = None
        self.cpu_s = 0.0
        self.pid_fd = os.pidfd_open(self.pid)

    def hear(self) -> None:
        """Wait until it is confined, or says why it is not.

        Soon after its start: what it sends along counts, until it is received, against a limit that all programs share.
        """
        if self.said is None:
            self.said, listeners, _, _ = socket.recv_fds(self.channel, 1000, 1)
            if listeners:
                self.questions = Questions(*listeners)

    @property
    def used_network(self) -> bool:
        """Whether a socket of the network was made, or may have been."""
        return self.questions is None or self.questions.used_network

    def begin(self, order: wire.Order, fds: "list[int]") -> None:
        """Set the limits of the order and hand over the code and the streams.

        Raises:
            OSError: if the process could not be confined or limited.
        """
        self.hear()
        if self.said != wire.READY:
            raise OSError(f"the program's process: {(self.said or b'').decode() or 'ended before its code'}")
        isolation.limit_process(self.pid, order)
        if self.questions is not None:
            self.questions.begin(order)
        self.channel.settimeout(1.0)  # from here the other side is the program's, and may take nothing
        wire.send_fds(self.channel, wire.GO, fds)

    def go_on(self, fds: "list[int]") -> None:
        """Wake a paused session and hand it the next cell; one that does not take it is killed."""
        rest.signal_all(signal.SIGCONT)
        try:
            wire.send_fds(self.channel, wire.GO, fds)
        except OSError:
            os.kill(self.pid, signal.SIGKILL)

    def overreaches(self, proc: int, at_rest: bool = False) -> bool:
        """Return True if it holds a lock that is not its own, or too much of what all calls share."""
        is_sound = self.questions is None or self.questions.is_sound(proc)
        return not is_sound or pipes.are_too_many(proc) or self.flight.is_too_full(proc, at_rest)

    def memory_left(self, proc: int, order: wire.Order, is_alone: bool) -> int:
        """Return the bytes of memory that it may still take; see `memory.Use`."""
        shared = self.questions.shared_bytes if self.questions is not None else 0
        return order.memory_bytes - shared - self.memory.of_all(proc, order.memory_bytes, is_alone)

    def reap(self) -> None:
        """Collect ended processes, orphans included; note how the program itself ended."""
        self._collect(os.WNOHANG)

    def end(self) -> None:
        """Kill everything in the PID namespace, which no process can outrun by forking, and collect it."""
        rest.signal_all(signal.SIGKILL)
        self._collect(0)
        os.close(self.pid_fd)
        if self.questions is not None:
            os.close(self.questions.listener)
        self.channel.close()

    def _collect(self, how: int) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, how)
                if pid == 0:
                    return
                if pid == self.pid:
                    self.exit_status, self.cpu_s = status, usage.ru_utime + usage.ru_stime


def serve(connection: socket.socket, running: Program, proc: int) -> None:
    """Carry out the host's orders, of calls or of one session, until it hangs up or this PID 1 is used up.

    After a call that ended by itself the namespaces are cleaned, a program for the next one is forked, and the host is
    told by `wire.READY`. Never returns; at its end the kernel ends every process and removes the namespaces.

    Args:
        connection: to the host.
        running: the first program.
        proc: the result of `isolation.make_private_world`.
    """
    try:
        for number in range(MAX_CALLS):
            if number > 0:
                isolation.renew_world(proc)
                running = Program()
            running.hear()
            if number > 0:
                connection.send(wire.READY)
                if not _is_wanted(connection):
                    break
            if not _serve_one(connection, running, proc):
                break
    except (EOFError, OSError):  # the host hung up, or something stays of the last call: a later one gets another PID 1
        pass
    finally:
        os._exit(0)


def _is_wanted(connection: socket.socket) -> bool:
    """Wait for an order; say that none is taken any more, and return False, if none has come for a while."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while poll.poll(IDLE_S * 1000):
        if connection.recv(len(wire.STOP), socket.MSG_PEEK) != wire.STOP:
            return True
        connection.recv(1)  # it crossed the last call's verdict
    connection.send(wire.REFUSED)
    return False


def _serve_one(connection: socket.socket, running: Program, proc: int) -> bool:
    """Serve one call, or one session to its end; return True if nothing speaks against another call."""
    is_first = is_new = is_sound = True
    try:
        while True:
            at_rest = None if is_new else _see_to_rest(connection, proc)
            data, fds = wire.receive_packet(connection)
            if data == wire.STOP:  # it crossed the verdict
                if not is_new:
                    running.end()
                    running, is_new, is_sound = Program(), True, False
                continue
            order = wire.order_of(data)
            if order.kind == wire.END:
                running.end()
                return is_sound
            if is_first:
                isolation.limit_disk(order.disk_bytes, order.num_files)
                is_first = False
            if order.kind == wire.FILES:
                clerk.start(fds[0], connection, proc, at_rest or None)
            else:
                verdict = _run(connection, running, order, fds, is_new, proc)
                is_new = verdict.kind not in ("done", "raised")
                is_sound = is_sound and verdict.kind in ("exited", "done", "raised") and not running.used_network
                connection.send(verdict.packed())
                if is_new and order.is_session:
                    running = Program()
            if order.is_last:
                return is_sound
    except (EOFError, OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            connection.send(wire.failure(f"{type(error).__name__}: {error}"))
        return False


def _run(
    connection: socket.socket, running: Program, order: wire.Order, fds: "list[int]", is_new: bool, proc: int
) -> wire.Verdict:
    started = time.monotonic()
    if is_new:
        running.begin(order, fds)
    else:
        running.go_on(fds)
    for fd in fds:
        os.close(fd)
    verdict = _watch(connection, running, order, started + order.wall_s, proc)
    duration = time.monotonic() - started
    if verdict in ("done", "raised"):
        rest.signal_all(signal.SIGSTOP)  # nothing is used between the cells
        if running.overreaches(proc, at_rest=True):
            rest.signal_all(signal.SIGKILL)
            verdict = "exited"
        elif running.memory_left(proc, order, False) < 0:  # a short cell has not been looked at
            verdict = "memory"
    if verdict not in ("done", "raised"):
        running.end()
    status = running.exit_status or 0
    return_code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return wire.Verdict(verdict, return_code, running.cpu_s, duration)


def _watch(connection: socket.socket, running: Program, order: wire.Order, deadline: float, proc: int) -> str:
    """Wait for the end; return "exited", "done", "raised", "timeout", "memory" or "output_limit".

    Raises:
        EOFError: if the host hangs up.
    """
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.register(running.pid_fd, select.POLLIN)
    if order.is_session:
        poll.register(running.channel, select.POLLIN)
    questions = running.questions
    if questions is not None:
        poll.register(questions.listener, select.POLLIN)
    next_look = time.monotonic() + memory.patience(order.memory_bytes)
    while True:
        now = time.monotonic()
        if now >= deadline:
            return "timeout"
        events = dict(poll.poll(max(0.0, min(next_look, deadline) - now) * 1000))
        if running.pid_fd in events:
            return "exited"
        if running.channel.fileno() in events:
            with contextlib.suppress(OSError):  # no more than a byte: it is the program's
                if (said := running.channel.recv(1)) in (wire.DONE, wire.RAISED):
                    return "done" if said == wire.DONE else "raised"
            poll.unregister(running.channel.fileno())
        if connection.fileno() in events:
            wire.receive_packet(connection)
            return "output_limit"
        if questions is not None and questions.listener in events:
            if events[questions.listener] & select.POLLIN:
                questions.answer(proc)
            else:
                poll.unregister(questions.listener)
        if time.monotonic() >= next_look:
            running.reap()
            if running.exit_status is not None:
                return "exited"
            if running.overreaches(proc):
                rest.signal_all(signal.SIGKILL)
            if not order.has_share:
                running.share.look(proc)
            left = running.memory_left(proc, order, not order.has_share)
            if left < 0:
                return "memory"
            next_look = time.monotonic() + memory.patience(left, len(rest.processes(proc)))


def _see_to_rest(connection: socket.socket, proc: int) -> "dict[str, bytes]":
    """Wait for an order between two cells; a session that does not come to rest or does not stay so is killed.

    Returns:
        The threads at rest; none if it was killed, or is to run on.
    """
    poll = select.poll()
    poll.register(connection, select.POLLIN)

    def is_to_run() -> bool:
        if poll.poll(1) and connection.recv(1, socket.MSG_PEEK) == wire.RUN:
            return True
        time.sleep(0.001)  # for all else it must rest first
        return False

    at_rest = rest.stop(proc, is_to_run)
    while at_rest and not poll.poll(REST_S * 1000):
        at_rest = rest.held(proc, at_rest)
    return rest.held(proc, at_rest) if at_rest else {}
