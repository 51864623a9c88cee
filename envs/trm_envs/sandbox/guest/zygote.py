"""The warm interpreter inside bubblewrap: it forks supervisors and does nothing else."""

import contextlib
import gc
import importlib
import os
import signal
import socket
import time

from . import cells, isolation, program, seccomp, supervisor, wire
from .process import Program

READY, CALL = b"ready", b"call"
SPARES = 2
"""Number of supervisors that wait with namespaces and mounts made, and programs forked and confined."""
PATIENCE_S = 2.0
"""Time for which a refused fork is retried."""


def serve(control_fd: int, preload: "list[str]", packages: str, counts: bool) -> None:
    """Send the host the connections of waiting supervisors, a new one for each that it takes; end when it is gone.

    Args:
        control_fd: a SOCK_SEQPACKET socket; each message to the host carries the descriptor of one connection, or the
            reason why there is none; each message from the host says that one was taken.
        preload: modules to import once, for all calls.
        packages: the folder of what else programs can import.
        counts: whether the supervisors are asked for threads: without control groups.
    """
    for name in preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in ("LD_BIND_NOW", "MALLOC_ARENA_MAX", "PWD"):  # for the zygote alone, and bubblewrap's own
        os.environ.pop(name, None)
    cells.limit_imports(packages)
    program.prepare()
    isolation.limit_all_processes()
    seccomp.prepare(counts)
    uid, gid = os.getuid(), os.getgid()
    gc.disable()
    gc.freeze()  # what all calls share is not touched by their collections
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    control = socket.socket(fileno=control_fd)
    try:
        control.send(READY)
        for _ in range(SPARES):
            _send_supervisor(control, uid, gid)
        while control.recv(16):
            _send_supervisor(control, uid, gid)
    except ConnectionError:  # the host is gone and has left some connections unread
        pass
    finally:
        os._exit(0)  # PID 1: every call dies with it


def _send_supervisor(control: socket.socket, uid: int, gid: int) -> None:
    """Fork a supervisor that makes its world ahead of time, and send its connection to the host."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    there.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # the host learns the number of the process that sends
    try:
        if _fork_patiently() == 0:
            control.close()
            there.close()
            _supervise(here, uid, gid)
        wire.send_fds(control, CALL, [there.fileno()])
    except OSError as error:
        control.send(f"zygote: {error}".encode())
    here.close()
    there.close()


def _fork_patiently() -> int:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return isolation.fork_into_namespaces()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _supervise(connection: socket.socket, uid: int, gid: int) -> None:
    try:
        try:
            for number in (signal.SIGCHLD, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            connection.send(wire.HERE)
            isolation.refuse_new_privileges()
            isolation.go_first()
            running = Program(connection)  # first: what is written before a fork is copied twice
            isolation.map_own_user(uid, gid)
            proc = isolation.make_private_world()
        except OSError as error:
            connection.send(wire.failure(f"the call's world: {error}"))
            connection.recv(1)  # stay until it is read
        else:
            supervisor.serve(connection, running, proc)
    finally:
        os._exit(0)
