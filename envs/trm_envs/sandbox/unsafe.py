"""Programs as plain subprocesses: nothing is isolated. For a user who asks for it by name, and for nobody else."""

import contextlib
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trm_envs.packages import Packages
from trm_envs.sandbox import package_folder
from trm_envs.sandbox.connection import Slots
from trm_envs.sandbox.interface import Limits, Result, SandboxClosed
from trm_envs.sandbox.request import Request, make_request
from trm_envs.sandbox.unsafe_process import Work

WARNING = (
    "sandbox=unsafe: programs run as plain subprocesses with your rights, your files and your network; nothing is "
    "isolated. Use it only for code that you would run by hand."
)


class UnsafeSandbox:
    """Runs programs without isolation; see `Runner` for `run`, `arun` and `close`.

    Of the limits, those on time, output, the size of a file and the memory of one process hold. Those on the number of
    processes and files and on the disk do not, and a program that leaves its process group outlives its call.

    Args:
        limits: what a call may use if it says nothing else.
        packages: what programs can import beside the standard library.
    """

    def __init__(self, limits: Limits | None = None, *, packages: Packages | None = None) -> None:
        warnings.warn(WARNING, RuntimeWarning, stacklevel=2)
        self.limits = limits or Limits()
        self._packages = package_folder.linked(packages or Packages())
        number = 4 * (os.cpu_count() or 1)
        self._slots = Slots(number)
        self._threads = ThreadPoolExecutor(number, "trm-unsafe")
        self._works: set[Work] = set()
        self._closed = False

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
        """Run a program by itself; see `Runner.run`."""
        request = make_request(code, language, stdin, files, limits or self.limits, outputs, session=False)
        with contextlib.closing(self._work()) as work:
            return work.ask(request)

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
        """Run a program by itself without blocking the event loop; see `Runner.arun`."""
        request = make_request(code, language, stdin, files, limits or self.limits, outputs, session=False)
        with contextlib.closing(self._work()) as work:
            return await work.ask_in_thread(request)

    def session(self) -> "UnsafeSession":
        """Open a session; see `Sandbox.session`."""
        return UnsafeSession(self)

    def close(self) -> None:
        """Stop all calls and sessions; may be called again."""
        self._closed = True
        for work in tuple(self._works):
            work.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._packages.cleanup()

    def __enter__(self) -> "UnsafeSandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> Work:
        if self._closed:
            raise SandboxClosed("the sandbox is closed; make a new UnsafeSandbox")
        return Work(self._slots, self._threads, self._works, self._packages.name)


class UnsafeSession:
    """Calls that share variables and files; see `Runner`. Python only, one call at a time."""

    def __init__(self, sandbox: UnsafeSandbox) -> None:
        self._sandbox = sandbox
        self._work = sandbox._work()

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
        """Run one cell; see `Runner.run`."""
        return self._work.ask(self._request(code, language, stdin, files, limits, outputs))

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
        """Run one cell without blocking the event loop; if it is cancelled, the session's state is lost."""
        return await self._work.ask_in_thread(self._request(code, language, stdin, files, limits, outputs))

    def close(self) -> None:
        """End the session; may be called again."""
        self._work.close()

    def __enter__(self) -> "UnsafeSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(
        self, code: str, language: str, stdin: Any, files: Any, limits: Limits | None, outputs: Any
    ) -> Request:
        return make_request(code, language, stdin, files, limits or self._sandbox.limits, outputs, session=True)
