"""An HTTP server that speaks SandboxFusion's schema over a sandbox of ours; `trm sandbox serve` starts it."""

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import functools
import hmac
import ipaddress
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from trm_envs.sandbox.fusion import schema as schema
from trm_envs.sandbox.fusion.jobs import MOST, BadField, Job, read_jupyter, read_run
from trm_envs.sandbox.fusion.places import Places
from trm_envs.sandbox.interface import LANGUAGES, Limits, Result, Sandbox, Status

if TYPE_CHECKING:
    from aiohttp import web

PORT = 8080
"""Default port of the published client."""
MAX_WAITING = 1000
"""Requests beyond those that run and these are answered with HTTP 503."""
BODY_S = 30.0
OUTCOME = "X-Sandbox-Status"
PATHS = ("POST /run_code", "POST /run_jupyter", "GET /v1/ping")


class SandboxServer:
    """Serves a sandbox over HTTP with SandboxFusion's schema.

    Args:
        sandbox: the sandbox for the programs; the caller closes it.
        host: the address to bind.
        port: the port to bind; 0 takes a free one.
        max_concurrent: how many programs run at once, further requests wait; None takes the sandbox's own number.
        most: the largest limits that a request may ask for; a larger one is refused, not lowered.
        token: if given, a request needs it: as a bearer token, or as the password of basic authentication, which is
            what a client sends for "http://:TOKEN@host:port".
        max_body_bytes: how long a request may be.
        log: takes a line for each request; None logs nothing. No line holds code.

    Raises:
        ValueError: if an argument is not allowed.
        ImportError: if aiohttp is missing.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        host: str = "127.0.0.1",
        port: int = PORT,
        max_concurrent: int | None = None,
        most: Limits = MOST,
        token: str | None = None,
        max_body_bytes: int = 1 << 25,
        log: Callable[[str], None] | None = None,
    ) -> None:
        if max_concurrent is None:
            max_concurrent = getattr(sandbox, "max_concurrent", 8)
        for field, value, largest in (
            ("max_concurrent", max_concurrent, 1000),
            ("max_body_bytes", max_body_bytes, 1 << 31),
        ):
            if not isinstance(value, int) or not 1 <= value <= largest:
                raise ValueError(f"{field} = {value!r}: expected an integer from 1 to {largest}")
        if not isinstance(port, int) or not 0 <= port <= 65_535:
            raise ValueError(f"port = {port!r}: expected an integer from 0 to 65535; 0 takes a free one")
        if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
            raise ValueError("token: expected printable ASCII characters without a space")
        _import_web()
        self.max_concurrent = max_concurrent
        self._sandbox = sandbox
        self._address = (host, port)
        self._base = getattr(sandbox, "limits", None) or Limits()
        self._most = most
        self._token = token
        self._max_body_bytes = max_body_bytes
        self._log = log
        self._places = Places(max_concurrent)
        self._inside = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Bind and serve; return the server's address.

        Raises:
            OSError: if the address cannot be bound.
        """
        web = _import_web()

        @web.middleware
        async def guard(request: Any, handler: Callable[..., Awaitable[Any]]) -> Any:
            return await self._guard(request, handler)

        app = web.Application(middlewares=[guard], client_max_size=self._max_body_bytes)
        app.router.add_post("/run_code", self._run_code)
        app.router.add_post("/run_jupyter", self._run_jupyter)
        app.router.add_get("/v1/ping", self._ping)
        # with handler_cancellation a client that hangs up ends its program
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, *self._address).start()
        except OSError:
            await self.stop()
            raise
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening and end all requests and their programs; may be called again."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _guard(self, request: "web.Request", handler: Callable[..., Awaitable[Any]]) -> "web.StreamResponse":
        """Pass every request: authentication, the form of failures, the log."""
        web = _import_web()
        started, outcome = time.monotonic(), "hung up"
        try:
            response = self._refusal(request) or await handler(request)
            outcome = f"{response.status} {response.headers.get(OUTCOME, '')}".rstrip()
        except web.HTTPException as error:
            names = f"; this server has {', '.join(PATHS)}" if error.status in (404, 405) else ""
            response = _failure(error.status, f"{error.reason}{names}")
            outcome = str(error.status)
        except BadField as error:
            response = _failure(422, [{"loc": ["body", error.field], "msg": error.message, "type": "value_error"}])
            outcome = f"422 {error.field}"
        finally:
            if self._log is not None:
                seconds = time.monotonic() - started
                self._log(f"{request.remote} {request.method} {request.path} {outcome} {seconds:.3f} s")
        return response

    def _refusal(self, request: "web.Request") -> "web.Response | None":
        if "Origin" in request.headers:
            # any page that a browser on this machine shows could send programs here
            return _failure(403, "requests from a browser are refused")
        if self._token is not None and not _holds(request.headers.get("Authorization", ""), self._token):
            response = _failure(401, "this server needs its token; the address is http://:TOKEN@host:port")
            response.headers["WWW-Authenticate"] = 'Basic realm="sandbox"'
            return response
        if self._inside >= self.max_concurrent + MAX_WAITING and request.method == "POST":
            return _failure(503, f"{self._inside} requests run or wait; try again later")
        return None

    async def _ping(self, request: "web.Request") -> "web.Response":
        return _import_web().json_response("pong")

    async def _run_code(self, request: "web.Request") -> "web.StreamResponse":
        job = read_run(await _body(request), self._base, self._most)
        if job.language not in LANGUAGES:
            message = f"language = {job.language!r}: this server runs {' and '.join(LANGUAGES)}"
            return _respond(schema.to_run_answer(Result(Status.SANDBOX_ERROR, message=message)))
        return await self._in_slot(request, self._run, job, lambda results: schema.to_run_answer(results[-1]))

    async def _run_jupyter(self, request: "web.Request") -> "web.StreamResponse":
        job = read_jupyter(await _body(request), self._base, self._most)
        told = functools.partial(schema.to_jupyter_answer, num_cells=len(job.cells))
        return await self._in_slot(request, self._run_cells, job, told)

    async def _in_slot(
        self,
        request: "web.Request",
        run: Callable[[Job], Awaitable[list[Result]]],
        job: Job,
        told: Callable[[list[Result]], dict[str, Any]],
    ) -> "web.StreamResponse":
        """Wait for a free place, run a job and answer with its result; a client that waits gets signs of life."""
        self._inside += 1
        try:
            response = await self._places.take(request, _import_web().StreamResponse)
            try:
                results = await run(job)
            except Exception as error:
                # whatever fails on this side is told as such, and never as the program's failure
                results = [Result(Status.SANDBOX_ERROR, message=f"{type(error).__name__}: {error}")]
            finally:
                self._places.give_back()
        finally:
            self._inside -= 1
        answer = told(results)
        if response is None:
            return _respond(answer)
        whole = _respond(answer)
        response.headers[OUTCOME] = whole.headers[OUTCOME]  # too late for the client; the log tells it
        await response.write_eof((whole.text or "").encode())
        return response

    async def _run(self, job: Job) -> list[Result]:
        code, *_ = job.cells
        return [await self._sandbox.arun(code, job.language, job.stdin, job.files, job.limits, outputs=job.outputs)]

    async def _run_cells(self, job: Job) -> list[Result]:
        """Run cells until one ends the interpreter."""
        results: list[Result] = []
        left_s = job.total_s
        with contextlib.closing(self._sandbox.session()) as session:
            for number, cell in enumerate(job.cells, 1):
                if left_s < 0.01:
                    results.append(Result(Status.TIMEOUT, state_lost=True))
                    break
                is_last = number == len(job.cells)
                wall_s = job.last_wall_s if is_last else job.limits.wall_s
                limits = dataclasses.replace(job.limits, wall_s=min(wall_s, left_s))
                outputs, files = job.outputs if is_last else [], job.files if number == 1 else None
                result = await session.arun(cell, files=files, limits=limits, outputs=outputs)
                results.append(schema.untold(result) if number <= job.num_replayed else result)
                left_s -= results[-1].duration_s
                if results[-1].state_lost or results[-1].status is Status.SANDBOX_ERROR:
                    break
        return results


def serve(server: SandboxServer, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then end every program.

    Args:
        server: a server that has not been started.
        ready: called with its address once it listens.

    Raises:
        OSError: if the address cannot be bound.
    """

    async def until_told() -> None:
        told = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, told.set)
        ready(await server.start())
        await told.wait()
        await server.stop()

    asyncio.run(until_told())


def warning(host: str, token: str | None) -> str | None:
    """Return a warning to the operator about this address; None if only this machine reaches it."""
    with contextlib.suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return None
    if token is not None:
        return f"WARNING: {host} is reached from other machines, and the token travels unencrypted"
    return (
        f"WARNING: {host} is reached from other machines and there is no authentication: whoever can reach it runs "
        "programs here; pass --token, or bind 127.0.0.1"
    )


def log_to_stderr(line: str) -> None:
    """Print a line of the log."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", file=sys.stderr, flush=True)


async def _body(request: "web.Request") -> Any:
    web = _import_web()
    try:
        data = await asyncio.wait_for(request.read(), BODY_S)
        return json.loads(data)
    except asyncio.TimeoutError:
        raise web.HTTPRequestTimeout(reason=f"the request's body did not arrive within {BODY_S:.0f} s") from None
    except (ValueError, RecursionError) as error:
        raise BadField("body", f"not JSON: {error}") from error


def _respond(answer: dict[str, Any]) -> "web.Response":
    return _import_web().json_response(answer, headers={OUTCOME: answer.get("trm", answer)["status"]})


def _failure(status: int, detail: Any) -> "web.Response":
    return _import_web().json_response({"detail": detail}, status=status)


def _holds(header: str, token: str) -> bool:
    kind, _, value = header.partition(" ")
    if kind.lower() == "basic":
        try:
            value = base64.b64decode(value).decode("latin-1").partition(":")[2]
        except (binascii.Error, ValueError):
            return False
    elif kind.lower() != "bearer":
        return False
    return hmac.compare_digest(value.encode("utf-8", "replace"), token.encode())


def _import_web() -> Any:
    try:
        from aiohttp import web
    except ImportError as error:
        raise ImportError("the sandbox server needs aiohttp; pip install aiohttp") from error
    return web
