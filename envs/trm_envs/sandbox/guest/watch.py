"""PID 1 beside a program that runs: it waits for its end and holds it to its limits."""

import contextlib
import os
import select
import signal
import socket
import time

from . import crowds, memory, rest, wire
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
    left, counted = order.memory_bytes, time.monotonic()
    next_look = next_whole_look = counted + memory.patience(left)
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
            is_whole = time.monotonic() >= next_whole_look
            size = crowds.size(proc)
            is_crowd = size.is_crowd and not (order.has_share and order.has_memory)
            is_late = not order.has_memory and memory.can_be_used_up(left, time.monotonic() - counted, size.processes)
            is_stopped = is_crowd or is_late
            with rest.stopped(proc) if is_stopped else contextlib.nullcontext():
                stops = not (order.has_memory or is_stopped)
                counted = time.monotonic()
                left = running.memory_left(proc, order, stops, deadline)
                if left >= 0 and is_whole and running.overreaches(proc, stops=stops):
                    rest.signal_all(signal.SIGKILL)
                if is_crowd:
                    running.share.lower(proc)  # before they go on, one after the other
                if is_stopped:
                    counted = time.monotonic()
            if left < 0:
                return "memory"
            next_look = counted + memory.patience(left, size.processes)
            if is_whole:
                next_whole_look = time.monotonic() + memory.WATCH_S
                if not order.has_share:
                    running.share.look(proc)
