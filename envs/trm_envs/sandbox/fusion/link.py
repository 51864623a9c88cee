"""From a caller's thread or event loop to the one that posts, and the runners that ask over it."""

import asyncio
import atexit
import concurrent.futures
import os
import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from trm_envs.sandbox.fusion.poster import Poster
from trm_envs.sandbox.interface import Limits, Result, SandboxClosed
from trm_envs.sandbox.request import Request
from trm_envs.sandbox.runner import BaseRunner

Call = Callable[[Poster], Coroutine[Any, Any, Result]]
_OPEN: "weakref.WeakSet[Link]" = weakref.WeakSet()


class Link:
    """An event loop in a thread of its own, which a sandbox and its sessions share; made at the first call.

    Args:
        make_poster: makes the poster on that loop.
    """

    def __init__(self, make_poster: Callable[[], Poster]) -> None:
        self._make_poster = make_poster
        self._lock = threading.Lock()
        self._loop: _LoopThread | None = None
        self._closed = False
        _OPEN.add(self)

    def wait_for(self, call: Call) -> Result:
        """Make a call and block until its result.

        Raises:
            SandboxClosed: if this is closed.
        """
        future = self._submit(call)
        try:
            return future.result()
        except BaseException:  # an interrupt from the keyboard
            future.cancel()
            raise

    async def wait_async(self, call: Call) -> Result:
        """Do the same without blocking the event loop; if it is cancelled, so is the call."""
        return await asyncio.wrap_future(self._submit(call))

    def close(self) -> None:
        """Hang up on all calls; they end as `sandbox_error`. May be called again."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is not None and loop.is_ours():
            loop.close()

    def _submit(self, call: Call) -> "concurrent.futures.Future[Result]":
        """Start a call; a thread that belongs to a parent process is replaced."""
        with self._lock:
            if self._closed:
                raise SandboxClosed("the sandbox is closed; make a new FusionSandbox")
            if self._loop is None or not self._loop.is_ours():
                self._loop = _LoopThread(self._make_poster())
            return self._loop.submit(call)


class LinkedRunner(BaseRunner):
    """A sandbox or session that asks over a link.

    Args:
        limits: default limits of a call.
        link: where its calls go.
    """

    def __init__(self, limits: Limits | None, link: Link) -> None:
        super().__init__(limits)
        self._link = link

    @abstractmethod
    def _call(self, request: Request) -> Call:
        """Return the call that carries a request out."""

    def _ask(self, request: Request) -> Result:
        return self._link.wait_for(self._call(request))

    async def _ask_async(self, request: Request) -> Result:
        return await self._link.wait_async(self._call(request))


class _LoopThread:
    """An event loop in a thread: the same connections serve blocking callers and every caller's event loop."""

    def __init__(self, poster: Poster) -> None:
        self._poster = poster
        self._owner = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trm-sandbox-http", daemon=True)
        self._thread.start()

    def is_ours(self) -> bool:
        return self._owner == os.getpid()

    def submit(self, call: Call) -> "concurrent.futures.Future[Result]":
        return asyncio.run_coroutine_threadsafe(self._poster.tracked(call(self._poster)), self._loop)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._poster.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@atexit.register
def _close_all() -> None:
    for link in list(_OPEN):
        link.close()
