"""A process beside a program that does not run: it writes and reads files of the working folder for the host.

So that its PID 1 sees none of them: what a process has seen, it hands on to whatever it forks.
"""

import os
import select
import signal
import socket
import stat

from . import isolation, rest, wire

LOOK_S = 0.1
"""Interval of looking whether anything disturbs it."""


def start(channel_fd: int, connection: socket.socket, proc: int, at_rest: "dict[str, bytes] | None") -> None:
    """As PID 1: have a child do what the host asks over the descriptor, and wait for its end.

    Nothing that runs could stop or kill it. Should the kernel wake a process of a paused session all the same, that
    session is killed at once, with the child: the host hears nothing, and knows what that means.

    Args:
        channel_fd: to the host, closed here.
        connection: to the host, which may hang up.
        proc: the result of `isolation.make_private_world`.
        at_rest: the threads of a paused session, as `rest.look` saw them; None if there is none.
    """
    try:
        pid = os.fork()
    except OSError:  # a session may hold every place; the descriptor's end says the same
        os.close(channel_fd)
        return
    if pid == 0:
        try:
            isolation.close_other_fds(channel_fd)
            isolation.confine()
            channel = socket.socket(fileno=channel_fd)  # whose end the host sees after this process's memory is gone
            _serve(channel)
        finally:
            os._exit(0)
    os.close(channel_fd)
    pid_fd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pid_fd, select.POLLIN)
    poll.register(connection, 0)  # its end is told nevertheless
    while not (events := poll.poll(LOOK_S * 1000)):
        if at_rest is not None and (rest.is_stopped(proc, pid) or not _rests(proc, pid, at_rest)):
            os.kill(-1, signal.SIGKILL)
    if pid_fd not in dict(events):
        os.kill(pid, signal.SIGKILL)
    os.close(pid_fd)
    os.waitpid(pid, 0)


def _rests(proc: int, clerk: int, at_rest: "dict[str, bytes]") -> bool:
    threads = rest.look(proc) or {}
    return {path: threads[path] for path in threads if not path.startswith(f"{clerk}/")} == at_rest


def _serve(channel: socket.socket) -> None:
    order, files, missing = wire.receive(channel), {}, {}
    try:
        for name, data in order["write"].items():
            _write(name, wire.unpack(data))
    except OSError as error:
        wire.send(channel, {"error": f"files[{name!r}]: {error.strerror or error}"})
        return
    left = order["total_bytes"]
    for name in order["read"]:
        try:
            data = _read(name, min(left, order["file_bytes"]))
            left -= len(data)
            files[name] = data
        except OSError as error:
            missing[name] = error.strerror or str(error)
    wire.send(channel, {"lengths": {name: len(data) for name, data in files.items()}, "missing": missing})
    for data in files.values():
        channel.sendall(data)


def _write(name: str, data: bytes) -> None:
    """Write `data` to `name`, making the folders on the way."""
    folder = _open_folder(name, make=True)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(os.path.basename(name), flags, 0o644, dir_fd=folder)
        with open(fd, "wb") as file:
            file.write(data)
    finally:
        os.close(folder)


def _read(name: str, max_bytes: int) -> bytes:
    """Return the bytes of the regular file `name`.

    Raises:
        OSError: if it is absent, a link, no regular file, or longer than `max_bytes`.
    """
    folder = _open_folder(name, make=False)
    try:
        fd = os.open(os.path.basename(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")
            if status.st_size > max_bytes:
                raise OSError(f"{status.st_size} bytes, at most {max_bytes} are fetched")
            return file.read(max_bytes)
    finally:
        os.close(folder)


def _open_folder(name: str, make: bool) -> int:
    """Open the folder of `name`; no link is followed on the way."""
    folder = os.open(isolation.WORK, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    for part in name.split("/")[:-1]:
        if make and not _is_there(part, folder):
            os.mkdir(part, 0o755, dir_fd=folder)
        try:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _is_there(part: str, folder: int) -> bool:
    try:
        os.stat(part, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
