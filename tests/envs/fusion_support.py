"""What the tests of the HTTP backend share: a real server in a thread, and a fake one that misbehaves on purpose."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from trm_envs.sandbox.fusion.server import SandboxServer
from trm_envs.sandbox.interface import Limits, Result, Sandbox, Status


@contextlib.contextmanager
def running_server(sandbox: Sandbox, **arguments: Any) -> Iterator[str]:
    """The address of a real server over a sandbox, in a thread, on a free port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[SandboxServer, str]:
        server = SandboxServer(sandbox, port=0, **arguments)
        return server, await server.start()

    try:
        server, address = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        yield address
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


LIMITS = Limits(wall_s=5, cpu_s=5)


class FakeSandbox:
    """A fake: it runs nothing, takes `seconds` for it, and counts how many calls are inside."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.limits = LIMITS
        self.max_concurrent = 2
        self.seconds, self.error = seconds, error
        self.inside = self.most = self.cancelled = 0
        self.asked: list[Limits] = []

    async def arun(
        self, code: str, language: str, stdin: str, files: dict, limits: Limits, *, outputs: list[str]
    ) -> Result:
        self.asked.append(limits)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.inside -= 1
        if self.error is not None:
            raise self.error
        return Result(Status.OK, stdout="ran\n", return_code=0)

    def session(self) -> "FakeSession":
        return FakeSession(self)


class FakeSession:
    """A session of the fake."""

    def __init__(self, sandbox: FakeSandbox) -> None:
        self._sandbox = sandbox

    async def arun(self, code: str, *, files: Any, limits: Limits, outputs: list[str]) -> Result:
        return await self._sandbox.arun(code, "python", "", files, limits, outputs=outputs)

    def close(self) -> None:
        pass


Reply = tuple[int, bytes]
"""An HTTP status and a body."""


class FakeServer:
    """A fake: it runs nothing and answers each request with the next prepared reply, the last one for ever.

    Args:
        replies: an HTTP status and a body each, or what makes them from the request's decoded body.
    """

    def __init__(self, *replies: "Reply | Callable[[Any], Reply]") -> None:
        self.asked: list[tuple[str, Any]] = []
        self._replies = replies
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reply = fake._replies[min(len(fake.asked), len(fake._replies) - 1)]
                fake.asked.append((self.path, body))
                status, data = reply(body) if callable(reply) else reply
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeServer":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def answer(**fields: Any) -> Reply:
    """A well-formed answer to `/run_code` but for `fields`."""
    run = {"status": "Finished", "execution_time": 0.1, "return_code": 0, "stdout": "ok\n", "stderr": ""}
    whole = {"status": "Success", "message": "", "compile_result": None, "run_result": run, "files": {}}
    return 200, json.dumps({**whole, **fields}).encode()
