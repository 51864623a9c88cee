"""The host's ends of the two sockets: the zygote's control socket and a call's connection to its supervisor."""

import contextlib
import os
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from trm_envs.sandbox.guest import wire
from trm_envs.sandbox.interface import Limits, Result, Status, as_bytes, check_file_name, check_language

GRACE_S = 5.0
"""Seconds over the wall-clock limit in which a supervisor must have answered."""
SESSION_CPU_FACTOR = 100


class Zygote:
    """A running zygote.

    Args:
        process: bubblewrap's process.
        control: the socket over which calls are asked for.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        self.control = control
        self._process = process
        self._owner = os.getpid()

    def is_ours(self) -> bool:
        """True if it runs and this process started it, not a parent that forked us."""
        return self._owner == os.getpid() and self._process.poll() is None

    def take_supervisor(self) -> socket.socket:
        """Return the connection of a supervisor that waits for a request, and have another one made.

        Raises:
            ConnectionError: if the zygote is gone.
            OSError: if it could make none.
        """
        message, fds, _, _ = socket.recv_fds(self.control, 1000, 1)
        if not message:
            raise ConnectionResetError("the zygote is gone")
        with contextlib.suppress(ConnectionError):
            self.control.send(b"taken")
        if not fds:
            raise OSError(message.decode())
        return socket.socket(fileno=fds[0])

    def close(self) -> None:
        """End it and, by its PID namespace, everything in it."""
        is_owner = self._owner == os.getpid()
        if is_owner:
            with contextlib.suppress(OSError):
                self.control.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits on it
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self.control.close()  # last, for the sake of that thread


class Slots:
    """So many places, handed on in the order of asking; a `threading.Semaphore` lets late ones overtake."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        try:
            gate.acquire()
        except BaseException:  # an interrupt from the keyboard
            with self._lock:
                still_waits = gate in self._waiting
                if still_waits:
                    self._waiting.remove(gate)
            if not still_waits:
                self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


class Call:
    """The connection to one supervisor, made at the first question.

    Args:
        connect: makes a connection.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._is_asking = False
        self._closed = False

    def ask(self, request: dict[str, Any]) -> Result:
        """Have a request carried out.

        Raises:
            ValueError: if the call is closed.
        """
        limits = request["limits"]
        try:
            connection = self._connected()
        except OSError as error:
            return Result(Status.SANDBOX_ERROR, state_lost=request["session"], message=f"{error}")
        max_bytes = 4 * limits["output_bytes"] + len(request["outputs"]) * 2 * limits["file_bytes"] + (1 << 20)
        connection.settimeout(limits["wall_s"] + GRACE_S)
        is_sound = False
        try:
            wire.send(connection, request)
            result = to_result(wire.receive(connection, max_bytes))
            is_sound = True
            return result
        except (OSError, EOFError, ValueError, KeyError) as error:
            message = f"{type(error).__name__}: {error}"
            return Result(Status.SANDBOX_ERROR, state_lost=request["session"], message=message)
        finally:
            with self._lock:
                self._is_asking = False
                is_kept = is_sound and self._socket is connection  # else somebody has hung up meanwhile
                if not is_kept:
                    self._socket = None
            if not is_kept:
                connection.close()

    def abort(self) -> None:
        """Hang up; the kernel ends every process of the call. A later question starts afresh."""
        with self._lock:
            connection, self._socket = self._socket, None
            if connection is None:
                return
            if self._is_asking:
                # Wakes the thread that waits on it, which closes it: closed here, its number could go to another
                # socket before that thread looks, and then it would wait on that one.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            else:
                connection.close()

    def close(self) -> None:
        """Hang up for good."""
        self._closed = True
        self.abort()

    def _connected(self) -> socket.socket:
        with self._lock:
            if self._closed:
                raise ValueError("the session is closed; open a new one with session()")
            if self._socket is None:
                self._socket = self._connect()
            self._is_asking = True
            return self._socket


def make_request(
    code: str, language: str, stdin: Any, files: Any, limits: Limits, outputs: Any, session: bool
) -> dict[str, Any]:
    """Check the arguments of a run and return its message.

    Raises:
        ValueError: if one is not allowed.
    """
    check_language(language)
    if session and (language != "python" or stdin):
        field, value = ("stdin", stdin) if language == "python" else ("language", language)
        raise ValueError(
            f"{field} = {value!r}: a session takes Python cells without stdin; use the sandbox's own run()"
        )
    if not isinstance(limits, Limits):
        raise ValueError(f"limits is {type(limits).__name__}: expected Limits; pass e.g. Limits(wall_s=5)")
    if isinstance(outputs, str):
        raise ValueError(f"outputs = {outputs!r}: expected a list of file names; pass [{outputs!r}]")
    contents = {check_file_name("files", name): as_bytes(f"files[{name!r}]", files[name]) for name in files or {}}
    size = sum(map(len, contents.values()))
    if size > limits.disk_bytes:
        raise ValueError(f"files hold {size} bytes: at most limits.disk_bytes = {limits.disk_bytes}; raise it")
    values = {name: getattr(limits, name) for name in limits.__dataclass_fields__}
    return {
        "code": as_bytes("code", code).decode("utf-8", "surrogateescape"),
        "language": language,
        "stdin": wire.pack(as_bytes("stdin", stdin)),
        "files": {name: wire.pack(data) for name, data in contents.items()},
        "limits": {**values, "session_cpu_s": limits.cpu_s * SESSION_CPU_FACTOR},
        "outputs": [check_file_name("outputs", name) for name in outputs],
        "session": session,
    }


def to_result(answer: dict[str, Any]) -> Result:
    """Return a supervisor's answer as a result."""
    status = Status(answer["status"])
    if status is Status.SANDBOX_ERROR:
        return Result(status, message=answer["message"])
    return Result(
        status,
        stdout=wire.unpack(answer["stdout"]).decode("utf-8", "replace"),
        stderr=wire.unpack(answer["stderr"]).decode("utf-8", "replace"),
        return_code=answer["return_code"],
        duration_s=answer["duration_s"],
        stdout_truncated=answer["stdout_truncated"],
        stderr_truncated=answer["stderr_truncated"],
        files={name: wire.unpack(data) for name, data in answer["files"].items()},
        missing=answer["missing"],
        state_lost=answer["state_lost"],
    )
