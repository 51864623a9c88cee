"""The base of every sandbox and session: `run` and `arun` check the arguments, `_ask` carries the request out."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Protocol, TypeVar

from trm_envs.sandbox.interface import Limits, Result, SandboxClosed
from trm_envs.sandbox.request import Request, make_request

Self = TypeVar("Self", bound="BaseRunner")


class BaseRunner(ABC):
    """Implements `Runner` over two methods that carry out a checked request.

    Args:
        limits: default limits of a call.
    """

    is_session: ClassVar[bool] = False
    """True if calls share their state."""

    def __init__(self, limits: Limits | None) -> None:
        self.limits = Limits() if limits is None else limits

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
        """Run a program, or one cell of a session; see `Runner.run`."""
        return self._ask(self._request(code, language, stdin, files, limits, outputs))

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
        """Do the same without blocking the event loop; see `Runner.arun`."""
        return await self._ask_async(self._request(code, language, stdin, files, limits, outputs))

    @abstractmethod
    def close(self) -> None:
        """Stop everything and release it; may be called again."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _ask(self, request: Request) -> Result:
        """Carry a request out.

        Raises:
            SandboxClosed: if the sandbox or the session is closed.
        """

    @abstractmethod
    async def _ask_async(self, request: Request) -> Result:
        """Do the same without blocking the event loop; a cancelled request is stopped."""

    def _request(self, code: str, language: str, stdin: Any, files: Any, limits: Any, outputs: Any) -> Request:
        limits = self.limits if limits is None else limits
        return make_request(code, language, stdin, files, limits, outputs, session=self.is_session)


class Work(Protocol):
    """One call, or the calls of a session, and the process that carries them out."""

    def ask(self, request: Request) -> Result:
        """Carry a request out, in its turn and in a place of the sandbox.

        Raises:
            SandboxClosed: if this or the sandbox is closed.
        """

    def abort(self) -> None:
        """Stop running requests; a later one starts afresh."""

    def close(self) -> None:
        """Stop running requests and release everything, for good; may be called again."""


class BlockingSandbox(BaseRunner):
    """A sandbox whose work blocks the thread that asks.

    Args:
        limits: default limits of a call.
        threads: where asynchronous calls wait.
    """

    def __init__(self, limits: Limits | None, threads: ThreadPoolExecutor) -> None:
        super().__init__(limits)
        self._threads = threads
        self._closed = False

    @abstractmethod
    def _open(self) -> Work:
        """Return new work, with no state."""

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxClosed(f"the sandbox is closed; make a new {type(self).__name__}")

    def _ask(self, request: Request) -> Result:
        with contextlib.closing(self._open()) as work:
            return work.ask(request)

    async def _ask_async(self, request: Request) -> Result:
        with contextlib.closing(self._open()) as work:
            return await self._ask_in_thread(work, request)

    async def _ask_in_thread(self, work: Work, request: Request) -> Result:
        self._check_open()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work.ask, request)
        except asyncio.CancelledError:
            work.abort()
            raise


class BlockingSession(BaseRunner):
    """Calls that share variables and files; see `Runner`. Python only, one call at a time.

    The status of a cell is the program's own word: never score by it. If a call is cancelled, the state is lost.
    """

    is_session = True

    def __init__(self, sandbox: BlockingSandbox) -> None:
        super().__init__(sandbox.limits)
        self._sandbox = sandbox
        self._work = sandbox._open()

    def close(self) -> None:
        """End the session; may be called again."""
        self._work.close()

    def _ask(self, request: Request) -> Result:
        return self._work.ask(request)

    async def _ask_async(self, request: Request) -> Result:
        return await self._sandbox._ask_in_thread(self._work, request)
