"""One folder and one child process of the unsafe sandbox."""

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from trm_envs.sandbox.guest import wire
from trm_envs.sandbox.interface import Result, SandboxClosed, Status
from trm_envs.sandbox.outcome import Streams, judge
from trm_envs.sandbox.request import Request
from trm_envs.sandbox.slots import Slots
from trm_envs.tool_time import waiting

TICK_S = 0.02
"""Longest delay in noticing the end of a program that left its streams to a child."""
_PARENT = os.path.dirname(os.path.dirname(os.path.abspath(wire.__file__)))  # of the folder guest
_LAUNCH = "import sys; sys.path.insert(0, {!r}); from guest import unsafe_child; sys.path.pop(0); {}"


class Folder:
    """A working folder, and the process that runs in it.

    Args:
        slots: the places of the sandbox, one taken while something runs.
        folders: the set that this object is in until it is closed.
        packages: the folder of what programs can import beside the standard library.
    """

    def __init__(self, slots: Slots, folders: "set[Folder]", packages: str) -> None:
        self._top = tempfile.mkdtemp(prefix="trm-unsafe-")
        self._folder = os.path.join(os.path.realpath(self._top), "work")
        os.mkdir(self._folder)
        self._slots, self._folders, self._packages = slots, folders, packages
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._streams: Streams | None = None
        self._closed = False
        self._num_aborts = 0
        folders.add(self)

    def ask(self, request: Request) -> Result:
        """Carry a request out; see `Work.ask`."""
        num_aborts = self._num_aborts
        # the turn comes last: whoever closes this waits for it, and must not wait for a place
        with self._slots, self._turn:
            if self._closed:
                raise SandboxClosed("the session is closed; open a new one with session()")
            if self._num_aborts != num_aborts:
                message = "stopped while it waited for a place"
                return Result(Status.SANDBOX_ERROR, state_lost=request.session, message=message)
            try:
                return self._ask(request)
            except OSError as error:
                self._kill()
                return Result(Status.SANDBOX_ERROR, state_lost=request.session, message=f"{error}")

    def abort(self) -> None:
        """Stop what runs, and what waits for a place. A later request starts another process."""
        self._num_aborts += 1
        self._kill()

    def _kill(self) -> None:
        """Kill the process group; the kernel lets none of it fork meanwhile."""
        process = self._process
        if process is not None:
            self._signal(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)

    def close(self) -> None:
        """Kill the process and remove the folder; may be called again."""
        self._closed = True
        self.abort()
        with self._turn:  # after the thread that ran it
            self._hang_up()
        shutil.rmtree(self._top, ignore_errors=True)
        self._folders.discard(self)

    def _ask(self, request: Request) -> Result:
        self._write(request.files)
        started = time.monotonic()
        limits = request.limits
        if self._process is None:
            with waiting():
                self._start(request.stdin)
        process, streams = self._process, self._streams
        assert process is not None
        assert streams is not None
        self._signal(signal.SIGCONT)
        self._channel.settimeout(limits.wall_s)
        with contextlib.suppress(OSError):  # it does not listen: it is judged by what else it does
            wire.send(self._channel, _order(request))
        verdict = self._watch(process, streams, limits.output_bytes, started + limits.wall_s, request.session)
        duration = time.monotonic() - started
        goes_on = verdict in ("done", "raised")
        self._signal(signal.SIGSTOP) if goes_on else self._kill()
        streams.read_all(limits.output_bytes)
        texts = streams.take(limits.output_bytes)
        status, return_code = judge(verdict, process.returncode, texts["stderr"])
        files, missing = self._fetch(request)
        if not goes_on:
            self._hang_up()
        return Result(
            status,
            **texts,
            return_code=return_code,
            duration_s=duration,
            files=files,
            missing=missing,
            state_lost=request.session and not goes_on,
        )

    def _start(self, stdin: bytes) -> None:
        self._mend_folder()
        self._channel, theirs = socket.socketpair()
        call = f"unsafe_child.main({theirs.fileno()}, {self._folder!r}, {self._packages!r})"
        with theirs, tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            process = self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", _LAUNCH.format(_PARENT, call)],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                cwd=self._folder,
                env={"PATH": os.defpath, "HOME": self._folder, "TMPDIR": self._top, "LANG": "C.UTF-8"},
                start_new_session=True,
            )
        if self._closed:
            self._kill()
        assert process.stdout is not None
        assert process.stderr is not None
        self._streams = Streams(process.stdout.fileno(), process.stderr.fileno())

    def _mend_folder(self) -> None:
        """Make the working folder anew if a program has removed it, or put something else in its place."""
        if os.path.islink(self._folder) or not os.path.isdir(self._folder):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._folder)
            os.makedirs(self._folder)
        os.chmod(self._folder, 0o700)

    def _watch(
        self, process: "subprocess.Popen[bytes]", streams: Streams, limit: int, deadline: float, is_session: bool
    ) -> str:
        """Wait for the end; return "exited", "done", "raised", "timeout" or "output_limit"."""
        with selectors.DefaultSelector() as selector:
            for fd in (streams.out, streams.err, *([self._channel.fileno()] if is_session else [])):
                selector.register(fd, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(min(left, TICK_S)):
                    if key.fd not in (streams.out, streams.err):
                        try:
                            return "raised" if wire.receive(self._channel, 1000)["raised"] else "done"
                        except (EOFError, OSError, ValueError, KeyError, TypeError):
                            selector.unregister(key.fd)
                    elif not streams.read(key.fd, limit):
                        if streams.is_over(limit):
                            return "output_limit"
                        selector.unregister(key.fd)
                if not selector.get_map():
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.0, min(deadline - time.monotonic(), TICK_S)))
                if process.poll() is not None:
                    return "exited"
        return "timeout"

    def _write(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            path = Path(self._folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def _fetch(self, request: Request) -> tuple[dict[str, bytes], dict[str, str]]:
        """Return the files asked for that are there, and why others are not."""
        files: dict[str, bytes] = {}
        missing: dict[str, str] = {}
        for name in request.outputs:
            path = Path(self._folder, name)
            if str(path.resolve()) != str(path) or not path.is_file():
                missing[name] = "not a regular file" if path.is_symlink() or path.exists() else "No such file"
            elif path.stat().st_size > request.limits.file_bytes:
                missing[name] = f"{path.stat().st_size} bytes, at most {request.limits.file_bytes} are fetched"
            else:
                files[name] = path.read_bytes()
        return files, missing

    def _signal(self, number: int) -> None:
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)

    def _hang_up(self) -> None:
        """Forget the process and close its streams."""
        process, self._process = self._process, None
        if process is not None:
            self._channel.close()
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                stream.close()


def _order(request: Request) -> dict[str, Any]:
    """Return the part of a request that the child is told."""
    limits = request.limits
    return {
        "kind": request.kind.decode(),
        "code": request.code,
        "cpu_s": request.cpu_s,
        "memory_bytes": limits.memory_bytes,
        "stack_bytes": limits.stack_bytes,
        "file_bytes": limits.file_bytes,
    }
