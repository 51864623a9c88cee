"""The warm interpreter inside bubblewrap: it forks once for each call and does nothing else."""

import contextlib
import gc
import importlib
import os
import select
import signal
import socket

from . import isolation, program, supervisor, wire

READY = b"ready"
SPARES = 2
"""How many supervisors wait with their namespaces and mounts made."""


def serve(control_fd: int, preload: "list[str]") -> None:
    """Fork a supervisor for every connection that arrives over the control socket; end when the host is gone.

    Args:
        control_fd: a SOCK_SEQPACKET socket; each message carries the descriptor of one call's connection.
        preload: modules to import once, for all calls.
    """
    for name in preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    uid, gid = os.getuid(), os.getgid()
    gc.disable()
    gc.freeze()  # what all calls share is not touched by their collections
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    spares: list[socket.socket] = []
    with socket.socket(fileno=control_fd) as control:
        control.send(READY)
        while True:
            if len(spares) < SPARES and not select.select([control], [], [], 0)[0]:
                with contextlib.suppress(OSError):
                    spares.append(_fork_supervisor(uid, gid))
                    continue
            message, fds, _, _ = socket.recv_fds(control, 16, 1)
            if not message:
                os._exit(0)  # PID 1: every call dies with it
            try:
                with spares.pop(0) if spares else _fork_supervisor(uid, gid) as spare:
                    socket.send_fds(spare, [b"call"], fds)
            except OSError as error:
                with socket.socket(fileno=os.dup(fds[0])) as connection, contextlib.suppress(OSError):
                    wire.send(connection, {"status": "sandbox_error", "message": f"zygote: {error}"})
            for fd in fds:
                os.close(fd)


def _fork_supervisor(uid: int, gid: int) -> socket.socket:
    """Fork a supervisor that makes its world ahead of time; return the socket that takes its call's connection."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            if isolation.fork_into_namespaces() != 0:
                return ours
        except OSError:
            ours.close()
            raise
        _supervise(theirs, uid, gid)
        raise AssertionError


def _supervise(waiting: socket.socket, uid: int, gid: int) -> None:
    failure: BaseException | None = None
    try:
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            isolation.map_own_user(uid, gid)
            isolation.close_other_fds(keep=(waiting.fileno(),))
            isolation.make_private_world()
        except OSError as error:
            failure = error
        _, fds, _, _ = socket.recv_fds(waiting, 16, 1)
        waiting.close()
        connection = socket.socket(fileno=fds[0])
        if failure is None:
            supervisor.serve(connection, program)
        wire.send(connection, {"status": "sandbox_error", "message": f"the call's world: {failure}"})
    finally:
        os._exit(0)
