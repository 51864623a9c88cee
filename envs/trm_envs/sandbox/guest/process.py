"""A program as its supervisor sees it: a process, the channel to it, and how it ended."""

import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Iterable

from . import isolation, memory, program, rest, wire
from .holdings import Holdings
from .questions import Questions
from .shares import Share

MOST_REAPED = 1000
"""Largest number of ended processes that are collected in one go: on many processors as many may end meanwhile."""


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
        self.holdings = Holdings()
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
                self.questions = Questions(listeners[0], self.share)

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
        try:
            wire.send_fds(self.channel, wire.GO, fds)  # first: nothing runs unwatched while this waits
        except OSError:
            os.kill(self.pid, signal.SIGKILL)
        rest.signal_all(signal.SIGCONT)

    def overreaches(self, proc: int, at_rest: bool = False, stops: bool = False) -> bool:
        """Return True if it holds a lock that is not its own, or too much of what all calls share; see `Holdings`."""
        return self.holdings.are_too_many(proc, self.questions, at_rest, stops)

    def memory_left(self, proc: int, order: wire.Order, stops: bool, deadline: float) -> int:
        """Return the bytes of memory that it may still take; it is killed if there are none; see `memory.Use`."""
        shared = self.questions.shared_bytes if self.questions is not None else 0
        limit = order.memory_bytes - shared
        return limit - self.memory.of_all(proc, limit, stops, order.has_memory, deadline)

    def reap(self) -> None:
        """Collect ended processes, orphans included, though not for ever; note how the program itself ended."""
        self._collect(os.WNOHANG, range(MOST_REAPED))

    def end(self) -> None:
        """Kill everything in the PID namespace, which no process can outrun by forking, and collect it."""
        rest.signal_all(signal.SIGKILL)
        self._collect(0, itertools.count())
        os.close(self.pid_fd)
        if self.questions is not None:
            os.close(self.questions.listener)
        self.channel.close()

    def _collect(self, how: int, turns: "Iterable[int]") -> None:
        with contextlib.suppress(ChildProcessError):
            for _ in turns:
                pid, status, usage = os.wait4(-1, how)
                if pid == 0:
                    return
                if pid == self.pid:
                    self.exit_status, self.cpu_s = status, usage.ru_utime + usage.ru_stime
