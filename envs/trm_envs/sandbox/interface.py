"""The interface of every sandbox: run untrusted code under limits, and report one of a closed set of outcomes."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import PurePosixPath
from typing import Any, Protocol

from trm_envs.errors import InfrastructureError
from trm_fields import OneOf, between, check_settings, refuse, setting

LANGUAGES = ("python", "bash")


class SandboxUnavailable(InfrastructureError):
    """Isolation is unavailable on this machine; the message gives reason and remedy."""


class SandboxClosed(InfrastructureError, ValueError):
    """The sandbox or the session has been closed, by whoever made it, before a program could run."""


class Status(str, Enum):
    """The outcomes of a run."""

    OK = "ok"
    """The program ended by itself with return code 0."""
    ERROR = "error"
    """The program ended by itself with another return code, or by a signal of its own making."""
    TIMEOUT = "timeout"
    """It was stopped at the wall-clock or the cpu limit."""
    MEMORY = "memory"
    """It was stopped at the memory limit, or ended by an uncaught MemoryError."""
    OUTPUT_LIMIT = "output_limit"
    """It was stopped because it wrote more than the limit."""
    SANDBOX_ERROR = "sandbox_error"
    """The sandbox failed, not the program; never count it as a wrong answer."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of one call.

    Raises:
        ValueError: if a value is not allowed.
    """

    wall_s: float = setting(10.0, between(0.01, 86_400), "Seconds on the clock, from the start of the program.")
    cpu_s: float = setting(
        10.0,
        between(0.01, 86_400),
        "Seconds of processor time of each process, rounded up to whole ones; in a session 100 times as many in all.",
    )
    memory_bytes: int = setting(
        1 << 29,
        between(1 << 25, 1 << 40, int),
        "Address space of each process, and resident memory of all of them together.",
    )
    stack_bytes: int = setting(
        1 << 23,
        between(1 << 20, 100 << 20, int),
        "Stack of a process's first thread; the program sizes those of further threads.",
    )
    processes: int = setting(32, between(1, 10_000, int), "Processes and threads at one time.")
    output_bytes: int = setting(1 << 22, between(1, 1 << 28, int), "Bytes of stdout, and as many of stderr.")
    file_bytes: int = setting(1 << 26, between(1 << 12, 1 << 40, int), "Bytes of one file.")
    disk_bytes: int = setting(
        1 << 27,
        between(1 << 16, 1 << 40, int),
        "Bytes of all files; the disk is memory, on top of `memory_bytes`. In a session the first call's value holds.",
    )
    num_files: int = setting(
        10_000, between(16, 10_000_000, int), "Files and folders. In a session the first call's value holds."
    )

    def __post_init__(self) -> None:
        check_settings(self, "limits")


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of one run."""

    status: Status
    """Outcome of the run."""
    stdout: str = ""
    """The program's output, decoded as UTF-8 with replacement marks."""
    stderr: str = ""
    """The program's error output, decoded likewise."""
    return_code: int | None = None
    """The exit code, minus the signal's number for a death by signal, None if the sandbox stopped it."""
    duration_s: float = 0.0
    """Seconds on the clock from the start of the program to its end."""
    stdout_truncated: bool = False
    """True if `stdout` was cut at the limit."""
    stderr_truncated: bool = False
    """True if `stderr` was cut at the limit."""
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    """The files asked for by `outputs` that were there."""
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The files asked for that were not, with the reason: absent, a link, no regular file, too long."""
    state_lost: bool = False
    """True if a session's variables and processes are gone; the next call starts afresh beside the same files."""
    message: str = ""
    """Cause of a `sandbox_error`."""

    @property
    def ok(self) -> bool:
        """True if the program ended by itself with return code 0."""
        return self.status is Status.OK


class Runner(Protocol):
    """Runs code: a sandbox, where every call starts from nothing, or a session, where calls share their state."""

    def run(
        self,
        code: str,
        language: str = "python",
        stdin: str | bytes = "",
        files: Mapping[str, str | bytes] | None = None,
        limits: Limits | None = None,
        *,
        outputs: Sequence[str] = (),
    ) -> Result:
        """Run a program.

        Args:
            code: the program's text.
            language: one of `LANGUAGES`; a session takes "python" only.
            stdin: its input; empty means at once at its end. A session takes none.
            files: relative name -> content, written to the working folder first.
            limits: None takes the sandbox's own.
            outputs: relative names of files to fetch afterwards.

        Returns:
            The result; whatever the program does, it does not raise.

        Raises:
            ValueError: if an argument is not allowed.
        """

    async def arun(
        self,
        code: str,
        language: str = "python",
        stdin: str | bytes = "",
        files: Mapping[str, str | bytes] | None = None,
        limits: Limits | None = None,
        *,
        outputs: Sequence[str] = (),
    ) -> Result:
        """Do the same without blocking the event loop; a cancelled call is stopped."""

    def close(self) -> None:
        """Stop everything and release it; may be called again."""


class Sandbox(Runner, Protocol):
    """Runs programs apart from each other, and opens sessions."""

    def session(self) -> Runner:
        """Open a session: variables, files and processes last from call to call until it is closed.

        Between calls the processes are paused. The limits of a process are those of the call that started the state.
        """


def check_language(language: str) -> None:
    """Raise a ValueError if the language is not one of `LANGUAGES`."""
    OneOf(LANGUAGES).check("language", language)


def check_file_name(field: str, name: Any) -> str:
    """Return the name of a file in the working folder.

    Raises:
        ValueError: if it is empty, absolute, leads out of the folder, or holds a NUL byte.
    """
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or any(part in ("", ".", "..") or "\0" in part or len(os.fsencode(part)) > 255 for part in parts):
        refuse(field, name, 'a relative name without ".."', 'give one, such as "src/data.txt"')
    return str(PurePosixPath(name))


def as_bytes(field: str, value: Any) -> bytes:
    """Return text as UTF-8 and bytes as they are.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes):
        return value
    refuse(field, value, "str or bytes", "encode it")
