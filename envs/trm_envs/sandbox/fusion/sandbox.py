"""A sandbox behind HTTP: a SandboxFusion server, such as `trm sandbox serve`."""

from typing import Any
from urllib.parse import SplitResult, urlsplit

from sandbox_fusion.models import RunCodeRequest

from trm_envs.sandbox.fusion import schema as schema
from trm_envs.sandbox.fusion.link import Call, Link, LinkedRunner
from trm_envs.sandbox.fusion.poster import Poster
from trm_envs.sandbox.fusion.session import FusionSession
from trm_envs.sandbox.interface import Limits, SandboxUnavailable
from trm_envs.sandbox.request import Request


class FusionSandbox(LinkedRunner):
    """Runs programs on a SandboxFusion server; see `Runner` for `run`, `arun` and `close`.

    It sends the published client's models over its own connections. The client's own call repeats every failed
    request, also a bad one, for half a minute, waits without end for an answer, cannot be cancelled, and has no field
    for the memory. Here a request is repeated only where that can help, has a deadline, and is hung up when the call
    is cancelled. Whatever the server does, a run ends in a result: a server that is down, slow or talks nonsense is
    `sandbox_error`. Nothing is asked of the server before the first run; `ping` asks.

    `trm sandbox serve` holds to all of `limits`; another server to `wall_s` and `memory_bytes` only.

    Args:
        endpoint: the server's address, such as "http://127.0.0.1:8080"; "http://:TOKEN@host:8080" with a token.
        max_concurrent: number of requests under way at once, as many as the server runs; further ones wait.
        retries: how often a request is repeated after a refused or broken connection, HTTP 429, 500, 502, 503 or 504,
            or the server's SandboxError.
        limits: default limits of a call.
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
        self.endpoint = shown = _without_token(check_endpoint(endpoint))
        self.max_concurrent = max_concurrent
        self.retries = retries
        self.margin_s = float(margin_s)
        super().__init__(limits, Link(lambda: Poster(endpoint.rstrip("/"), shown, max_concurrent, retries)))

    def session(self) -> FusionSession:
        """Open a session; see `FusionSession` for how it keeps state."""
        return FusionSession(self._link, self.limits, self.margin_s)

    def ping(self, timeout_s: float = 5.0) -> None:
        """Ask the server whether it is there.

        Raises:
            SandboxUnavailable: if it is not; it gives reason and remedy.
        """
        result = self._link.wait_for(lambda poster: poster.ping(timeout_s))
        if not result.ok:
            raise SandboxUnavailable(
                f"no sandbox server at {self.endpoint}: {result.message}; start one with `trm sandbox serve`, or check "
                "the address"
            )

    def close(self) -> None:
        """Hang up on all calls; they end as `sandbox_error`. May be called again."""
        self._link.close()

    def _call(self, request: Request) -> Call:
        limits = request.limits
        asked = RunCodeRequest(
            code=request.code,
            language=request.language,
            stdin=request.stdin.decode("utf-8", "surrogateescape"),
            files=request.packed_files(),
            fetch_files=request.outputs,
            run_timeout=limits.wall_s,
            compile_timeout=limits.wall_s,
        )
        body = {**asked.dict(), **schema.limit_fields(limits)}
        return lambda poster: poster.post(
            "/run_code",
            body,
            limits.wall_s + self.margin_s,
            schema.answer_bytes(limits, request.outputs),
            lambda answer: schema.from_run_answer(answer, limits, request.outputs),
        )


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
