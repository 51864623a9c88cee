"""A sandbox behind HTTP: a SandboxFusion server, such as `trm sandbox serve`."""

import asyncio
import atexit
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from sandbox_fusion.models import RunCodeRequest

from trm_envs.sandbox import fusion_schema as schema
from trm_envs.sandbox.fusion_http import Poster
from trm_envs.sandbox.fusion_session import FusionSession
from trm_envs.sandbox.interface import Limits, Result, SandboxClosed, SandboxUnavailable
from trm_envs.sandbox.request import make_request

Call = Callable[[Poster], Coroutine[Any, Any, Result]]
_OPEN: "weakref.WeakSet[FusionSandbox]" = weakref.WeakSet()


class FusionSandbox:
    """Runs programs on a SandboxFusion server; see `Runner` for `run`, `arun` and `close`.

    It sends the published client's models over its own connections. The client's own call repeats every failed
    request, also a bad one, for half a minute, waits without end for an answer, cannot be cancelled, and has no field
    for the memory. Here a request is repeated only where that can help, has a deadline, and is hung up when the call
    is cancelled. Whatever the server does, a run ends in a result: a server that is down, slow or talks nonsense is
    `sandbox_error`. Nothing is asked of the server before the first run; `ping` asks.

    `trm sandbox serve` holds to all of `limits`; another server to `wall_s` and `memory_bytes` only.

    Args:
        endpoint: the server's address, such as "http://127.0.0.1:8080"; "http://:TOKEN@host:8080" with a token.
        max_concurrent: how many requests are under way at once, further ones wait; what the server runs at once.
        retries: how often a request is repeated after a refused or broken connection, HTTP 429, 500, 502, 503 or 504,
            or the server's SandboxError.
        limits: what a call may use if it says nothing else.
        margin_s: seconds over `wall_s` in which an answer must be there; the server's queue counts in.

    Raises:
        ValueError: if an argument is not allowed.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        max_concurrent: int = 32,
        retries: int = 2,
        limits: Limits | None = None,
        margin_s: float = 30.0,
    ) -> None:
        for field, value, least, most in (("max_concurrent", max_concurrent, 1, 10_000), ("retries", retries, 0, 100)):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ValueError(f"{field} = {value!r}: expected an integer from {least} to {most}")
        if not isinstance(margin_s, (int, float)) or not 0 < margin_s <= 86_400:
            raise ValueError(f"margin_s = {margin_s!r}: expected seconds over 0, at most 86400; e.g. 30")
        if limits is not None and not isinstance(limits, Limits):
            raise ValueError(f"limits is {type(limits).__name__}: expected Limits; pass e.g. Limits(wall_s=5)")
        self._endpoint = endpoint.rstrip("/") if isinstance(endpoint, str) else endpoint
        self.endpoint = _without_token(check_endpoint(endpoint))
        self.limits = limits or Limits()
        self.max_concurrent = max_concurrent
        self.retries = retries
        self.margin_s = float(margin_s)
        self._lock = threading.Lock()
        self._loop: _LoopThread | None = None
        self._closed = False
        _OPEN.add(self)

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
        return self._wait_for(self._run_code(code, language, stdin, files, limits or self.limits, outputs))

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
        return await self._await(self._run_code(code, language, stdin, files, limits or self.limits, outputs))

    def session(self) -> FusionSession:
        """Open a session; see `FusionSession` for how it keeps state."""
        return FusionSession(self)

    def ping(self, timeout_s: float = 5.0) -> None:
        """Ask the server whether it is there.

        Raises:
            SandboxUnavailable: if it is not; it says why and what to do.
        """
        result = self._wait_for(lambda poster: poster.ping(timeout_s))
        if not result.ok:
            raise SandboxUnavailable(
                f"no sandbox server at {self.endpoint}: {result.message}; start one with `trm sandbox serve`, or check "
                "the address"
            )

    def close(self) -> None:
        """Hang up on all calls; they end as `sandbox_error`. May be called again."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is not None and loop.is_ours():
            loop.close()

    def __enter__(self) -> "FusionSandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run_code(
        self, code: str, language: str, stdin: Any, files: Any, limits: Limits, outputs: Sequence[str]
    ) -> Call:
        """Check the arguments, now, and return the call."""
        checked = make_request(code, language, stdin, files, limits, outputs, session=False)
        request = RunCodeRequest(
            code=checked.code,
            language=language,
            stdin=checked.stdin.decode("utf-8", "surrogateescape"),
            files=checked.packed_files(),
            fetch_files=checked.outputs,
            run_timeout=limits.wall_s,
            compile_timeout=limits.wall_s,
        )
        body = {**request.dict(), **schema.limit_fields(limits)}
        return lambda poster: poster.post(
            "/run_code",
            body,
            limits.wall_s + self.margin_s,
            answer_bytes(limits, outputs),
            lambda answer: schema.from_run_answer(answer, limits, checked.outputs),
        )

    def _submit(self, call: Call) -> "concurrent.futures.Future[Result]":
        """Start a call; a thread that belongs to a parent process is replaced."""
        with self._lock:
            if self._closed:
                raise SandboxClosed("the sandbox is closed; make a new FusionSandbox")
            if self._loop is None or not self._loop.is_ours():
                self._loop = _LoopThread(Poster(self._endpoint, self.endpoint, self.max_concurrent, self.retries))
            return self._loop.submit(call)

    def _wait_for(self, call: Call) -> Result:
        future = self._submit(call)
        try:
            return future.result()
        except BaseException:  # an interrupt from the keyboard
            future.cancel()
            raise

    async def _await(self, call: Call) -> Result:
        return await asyncio.wrap_future(self._submit(call))


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
    for sandbox in list(_OPEN):
        sandbox.close()


def answer_bytes(limits: Limits, outputs: Sequence[str]) -> int:
    """Return how long an answer may be: six characters of JSON for a control character, base64 for a file."""
    return 12 * limits.output_bytes + 2 * limits.file_bytes * len(outputs) + (1 << 20)


def check_endpoint(endpoint: Any) -> SplitResult:
    """Return the parts of a server's address.

    Raises:
        ValueError: if it is none.
    """
    allowed = 'expected the address of a SandboxFusion server, such as "http://127.0.0.1:8080"'
    if not isinstance(endpoint, str):
        raise ValueError(f"endpoint = {endpoint!r}: {allowed}")
    try:
        parts = urlsplit(endpoint)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError(f"endpoint = {endpoint!r}: {allowed}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok or parts.query or parts.fragment:
        raise ValueError(f"endpoint = {endpoint!r}: {allowed}")
    for call in ("/run_code", "/run_jupyter"):
        if parts.path.rstrip("/").endswith(call):
            raise ValueError(f"endpoint = {endpoint!r}: {allowed}; leave {call} out")
    return parts


def _without_token(parts: SplitResult) -> str:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
