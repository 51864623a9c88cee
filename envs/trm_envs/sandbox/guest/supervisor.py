"""PID 1 of namespaces that serve one call or session at a time: it starts the program and holds it to its limits.

It sees numbers: limits, exit statuses, times. Code, input, output and files go past it, by descriptor, so that its
memory, which every program inherits, holds nothing of an earlier call. The verdict comes from the kernel (`wait4`),
never from what the program prints.

Every page of memory that PID 1 writes after a fork is copied; it does without what touches many.
"""

import contextlib
import os
import select
import socket
import time

from . import clerk, isolation, rest, watch, wire
from .process import Program

MAX_CALLS = 100
"""Number of calls that one PID 1 serves."""
IDLE_S = 5.0
"""Longest wait for another call."""
REST_S = 1.0
"""Interval of looking whether a session still rests."""


def serve(connection: socket.socket, running: Program, proc: int) -> None:
    """Carry out the host's orders, of calls or of one session, until it hangs up or this PID 1 is used up.

    After a call that ended by itself the namespaces are cleaned, a program for the next one is forked, and the host is
    told by `wire.READY`. Never returns; at its end the kernel ends every process and removes the namespaces.

    Args:
        connection: to the host.
        running: the first program.
        proc: the result of `isolation.make_private_world`.
    """
    isolation.ask_for_short_turns()
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
                verdict = watch.run(connection, running, order, fds, is_new, proc)
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
