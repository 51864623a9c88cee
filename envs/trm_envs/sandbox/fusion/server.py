"""An HTTP server that speaks SandboxFusion's schema over a sandbox of ours; `trm sandbox serve` starts it.

A request passes, in this order: the gate of its connection (`connections`), the door (`door`), the ledger of bodies
(`bodies`), the workbench that reads it (`workbench`), and the places of the programs (`places`).
"""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from trm_envs.sandbox.fusion import schema as schema
from trm_envs.sandbox.fusion.answers import pieces, size_of, whole
from trm_envs.sandbox.fusion.bodies import QUIET_S, Account, Ledger, Slow, TooLong, read_body
from trm_envs.sandbox.fusion.bounds import Bounds
from trm_envs.sandbox.fusion.cells import run_cells
from trm_envs.sandbox.fusion.connections import Gate, Porter
from trm_envs.sandbox.fusion.decoding import BadField
from trm_envs.sandbox.fusion.door import Door, failure, shown, too_long
from trm_envs.sandbox.fusion.jobs import MOST, Job
from trm_envs.sandbox.fusion.places import Places, Reply
from trm_envs.sandbox.fusion.workbench import SHORT_BYTES, Workbench, give_memory_back
from trm_envs.sandbox.interface import LANGUAGES, Limits, Result, Sandbox, Status

PORT = 8080
"""Default port of the published client."""
SHORT_ANSWER = 1 << 18
"""Bytes of results up to which an answer is sent in one piece."""
LINGER_S = 2.0
"""Seconds in which the rest of a refused body is thrown away, so that the client sees the refusal."""
ACCEPTED, BACKLOG = 64, 4096
"""Connections that are accepted at once, so that those that must go have gone, and those that the kernel holds."""
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
        bounds: the limits on requests and connections.
        log: takes a line for each request; None logs nothing. No line holds code or control characters.

    Raises:
        ValueError: if an argument is not allowed.
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
        bounds: Bounds | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        if max_concurrent is None:
            max_concurrent = getattr(sandbox, "max_concurrent", 8)
        if not isinstance(max_concurrent, int) or not 1 <= max_concurrent <= 1000:
            raise ValueError(f"max_concurrent = {max_concurrent!r}: expected an integer from 1 to 1000")
        if not isinstance(port, int) or not 0 <= port <= 65_535:
            raise ValueError(f"port = {port!r}: expected an integer from 0 to 65535; 0 takes a free one")
        self.max_concurrent = max_concurrent
        self.bounds = bounds = Bounds() if bounds is None else bounds
        self._sandbox = sandbox
        self._address = (host, port)
        self._door = Door(token, bounds)
        self._log = (lambda line: log(shown(line))) if log is not None else (lambda line: None)
        self._porter = Porter(bounds, self._log)
        self._bodies, self._answers = Ledger(bounds.all_body_bytes), Ledger(bounds.all_answer_bytes)
        self._workbench = Workbench(getattr(sandbox, "limits", None) or Limits(), most, bounds)
        self._places = Places(max_concurrent, bounds.waiting, bounds.address_waiting)
        self._http: web.Server | None = None
        self._listening: asyncio.Server | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Bind and serve; return the server's address.

        Raises:
            OSError: if the address cannot be bound.
        """
        # with handler_cancellation a client that hangs up ends its program
        http = self._http = web.Server(
            self._guard,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            lingering_time=LINGER_S,
            logger=_quiet(self._log),
            read_bufsize=1 << 14,
        )
        loop = asyncio.get_running_loop()
        make = functools.partial(Gate, self._porter, http)
        self._listening = await loop.create_server(make, *self._address, backlog=ACCEPTED)
        for each in self._listening.sockets:
            with socket.socket(fileno=os.dup(each.fileno())) as same:
                same.listen(BACKLOG)
        self._watch = asyncio.create_task(self._porter.watch())
        host, port = self._listening.sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def prepare(self) -> None:
        """Start ahead what reads long bodies; without it the first of them waits for that."""
        self._workbench.prepare()

    async def stop(self) -> None:
        """Stop listening and end all requests and their programs; may be called again."""
        listening, self._listening = self._listening, None
        if listening is None or self._http is None or self._watch is None:
            return
        listening.close()
        self._watch.cancel()
        await self._http.shutdown(0.1)
        self._porter.close()
        await asyncio.sleep(0)
        self._workbench.close()

    async def _guard(self, request: web.BaseRequest) -> web.StreamResponse:
        """Pass every request: who may come in, the form of failures, the log."""
        started, outcome, refusal = time.monotonic(), "hung up", None
        gate = self._porter.by_inner[request.protocol]
        gate.begin()
        try:
            refusal = self._door.refusal(request)
            # "or" would let everybody in: in older releases of aiohttp an answer is false
            response = await self._answer(request, gate) if refusal is None else refusal
            outcome = f"{response.status} {response.headers.get(OUTCOME, '')}".rstrip()
        except BadField as error:
            response = failure(422, [{"loc": ["body", error.field], "msg": error.message, "type": "value_error"}])
            outcome = f"422 {error.field}"
        except Slow as error:
            response, outcome = failure(408, str(error)), "408"
        except TooLong:
            response, outcome = too_long(self.bounds), "413"
        except web.RequestPayloadError:
            response, outcome = failure(400, "the body is not what its headers say"), "400"
        except ConnectionError:
            response = failure(400, "the client hung up")  # to nobody
        except Exception as error:
            response = failure(500, "the server failed; its log says more")
            outcome = f"500 {type(error).__name__}: {error}"
        finally:
            seconds = time.monotonic() - started
            self._log(f"{request.remote} {request.method} {request.path[:100]} {outcome[:100]} {seconds:.3f} s")
        goes_on = refusal is None and request.content.is_eof()
        if not goes_on:
            response.force_close()
        gate.finish(goes_on)
        return response

    async def _answer(self, request: web.BaseRequest, gate: Gate) -> web.StreamResponse:
        path = request.path
        if f"{request.method} {path}" not in PATHS:
            is_known = any(each.endswith(f" {path}") for each in PATHS)
            name = "Method Not Allowed" if is_known else "Not Found"
            return failure(405 if is_known else 404, f"{name}; this server has {', '.join(PATHS)}")
        if path == "/v1/ping":
            return web.json_response("pong")
        if self._places.is_full_for(gate.address):
            return self._sent_away()
        reply = Reply(request)
        with contextlib.closing(Account(self._bodies)) as account:
            try:
                body = await read_body(reply, account, self.bounds)
                gate.run()
                reading = self._workbench.read(path, body)
                job = await (reading if len(body) <= SHORT_BYTES else reply.wait_for(reading, QUIET_S))
                del body, reading
                if self._places.is_full_for(gate.address) and reply.response is None:  # others were quicker
                    return self._sent_away()
                with self._places.entered(gate.address):
                    return await self._carry_out(reply, job, path, account, gate.address)
            except (BadField, Slow, TooLong) as error:
                if reply.response is None:
                    raise
                # the client has had HTTP 200 with the first sign of life
                refused = Result(Status.SANDBOX_ERROR, message=f"{type(error).__name__}: {error}")
                return await self._send(reply, schema.to_run_answer(refused))

    def _sent_away(self) -> web.Response:
        return failure(503, f"{self._places.num_inside} requests run or wait; try again later")

    async def _carry_out(self, reply: Reply, job: Job, path: str, body: Account, address: str) -> web.StreamResponse:
        """Wait for a free place, run a job and answer with its result; a client that waits gets signs of life."""
        if job.language not in LANGUAGES:
            message = f"language = {job.language!r}: this server runs {' and '.join(LANGUAGES)}"
            return await self._send(reply, schema.to_run_answer(Result(Status.SANDBOX_ERROR, message=message)))
        with contextlib.ExitStack() as stack:
            await self._places.take(reply, address)
            try:
                results = await self._results(job, path)
                body.close()
                account = stack.enter_context(contextlib.closing(Account(self._answers)))
                await account.add(size_of(results))
                account.complete()
            finally:
                self._places.give_back()
            told = functools.partial(_told, results, path, len(job.cells))
            is_short = account.num_bytes <= SHORT_ANSWER
            return await self._send(reply, told() if is_short else await asyncio.to_thread(told), is_short)

    async def _results(self, job: Job, path: str) -> list[Result]:
        try:
            if path == "/run_jupyter":
                return await run_cells(self._sandbox, job, self.bounds.cells_bytes)
            code = job.cells[0].decode("utf-8", "surrogateescape")
            return [await self._sandbox.arun(code, job.language, job.stdin, job.files, job.limits, outputs=job.outputs)]
        except Exception as error:
            # whatever fails on this side is told as such, and never as the program's failure
            return [Result(Status.SANDBOX_ERROR, message=f"{type(error).__name__}: {error}")]

    async def _send(self, reply: Reply, answer: dict[str, Any], is_short: bool = True) -> web.StreamResponse:
        """Send an answer: at once, or in pieces, between which others have their turn."""
        outcome = answer.get("trm", answer)["status"]
        if reply.response is None and is_short:
            return web.json_response(answer, headers={OUTCOME: outcome}, dumps=whole)
        for piece in pieces(answer):
            await reply.write(piece)
            await asyncio.sleep(0)
        assert reply.response is not None
        reply.response.headers[OUTCOME] = outcome  # too late for the client; the log tells it
        await reply.response.write_eof()
        return reply.response


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
        address = await server.start()
        server.prepare()
        ready(address)
        await told.wait()
        await server.stop()

    give_memory_back()
    asyncio.run(until_told())


def _told(results: list[Result], path: str, num_cells: int) -> dict[str, Any]:
    return schema.to_jupyter_answer(results, num_cells) if path == "/run_jupyter" else schema.to_run_answer(results[-1])


def _quiet(log: Callable[[str], None]) -> logging.Logger:
    """Return a logger for aiohttp that writes one line, and no traceback, for what is not HTTP."""

    class OneLine(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            log(f"{record.getMessage()}{f': {type(error).__name__}: {error}' if error else ''}")

    logger = logging.Logger("trm_envs.sandbox.http", logging.WARNING)
    logger.addHandler(OneLine())
    return logger
