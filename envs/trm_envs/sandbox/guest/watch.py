"""PID 1 beside a program that runs: it waits for its end and holds it to its limits."""

import contextlib
import os
import select
import signal
import socket
import time

from . import rest, wire
from .looks import Looks
from .process import Program


def run(
    connection: socket.socket, running: Program, order: wire.Order, fds: "list[int]", is_new: bool, proc: int
) -> wire.Verdict:
    """Let a program run, or a session go on; watch it to its end, or to the end of its cell, and return the verdict.

    A cell that has come to its end leaves the session stopped.

    Args:
        connection: to the host, which may ask for the end or hang up.
        running: the program.
        order: its limits.
        fds: what goes to the program: its code and its streams; closed here.
        is_new: whether the program has not begun.
        proc: the result of `isolation.make_private_world`.

    Raises:
        EOFError: if the host hangs up.
        OSError: if the program could not be confined or limited.
    """
    started = time.monotonic()
    if is_new:
        running.begin(order, fds)
    else:
        running.go_on(fds)
    for fd in fds:
        os.close(fd)
    verdict = _held_to_its_limits(connection, running, order, started + order.wall_s, proc)
    duration = time.monotonic() - started
    if verdict not in ("done", "raised"):
        running.end()
    status = running.exit_status or 0
    return_code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return wire.Verdict(verdict, return_code, running.cpu_s, duration)


def _held_to_its_limits(
    connection: socket.socket, running: Program, order: wire.Order, deadline: float, proc: int
) -> str:
    """Return what `_watch` does, after a look at a cell that is over; kill the program if it cannot be watched.

    Raises:
        EOFError: if the host hangs up.
    """
    try:
        verdict = _watch(connection, running, order, deadline, proc)
        if verdict in ("done", "raised"):
            rest.signal_all(signal.SIGSTOP)  # nothing is used between the cells
            if running.overreaches(proc, at_rest=True):
                rest.signal_all(signal.SIGKILL)
                verdict = "exited"
            elif running.memory_left(proc, order, False, deadline) < 0:  # a short cell has not been looked at
                verdict = "memory"
    except (EOFError, ConnectionError):  # the host
        raise
    except Exception:  # whatever a program brings about in who watches it is its own failure
        rest.signal_all(signal.SIGKILL)
        verdict = "exited"
    return verdict


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
    looks = Looks(running, order, deadline, proc)
    while True:
        now = time.monotonic()
        if now >= deadline:
            return "timeout"
        events = dict(poll.poll(max(0.0, min(looks.next, deadline) - now) * 1000))
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
        if time.monotonic() >= looks.next:
            running.reap()
            if running.exit_status is not None:
                return "exited"
            if not looks.look():
                return "memory"
