"""A real server in a process of its own, over a sandbox that runs nothing: what floods of requests do to it."""

import asyncio
import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trm_envs.sandbox import Limits, Result, Status
from trm_envs.sandbox.fusion.bounds import Bounds
from trm_envs.sandbox.fusion.door import log_to_stderr
from trm_envs.sandbox.fusion.server import SandboxServer, serve

ROOT = Path(__file__).parents[2]
PROGRAM = {"code": "1", "language": "python"}


class Idle:
    """A sandbox that runs nothing: it takes as many seconds as the program's text says, and prints as much as asked."""

    limits = Limits()
    max_concurrent = 4

    async def arun(self, code: str, *_: Any, **__: Any) -> Result:
        word, _, number = code[:40].partition(" ")
        if word == "sleep":
            await asyncio.sleep(float(number.split()[0]))
        return Result(Status.OK, stdout="x" * int(number) if word == "print" else "ran\n", return_code=0)


class Served:
    """A running server.

    Args:
        process: the process.
        port: the port of 127.0.0.1.
    """

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process, self.port = process, port
        self.lines: list[str] = []
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def connect(self) -> socket.socket:
        """Return a new connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def send(self, data: bytes) -> socket.socket:
        """Return a new connection over which data was sent."""
        connection = self.connect()
        connection.sendall(data)
        return connection

    def ask(self, data: bytes) -> bytes:
        """Send bytes and return all that comes until the server hangs up, or for 20 s."""
        with self.send(data) as connection:
            return read_all(connection)

    def post(self, body: Any, path: str = "/run_code", headers: str = "") -> tuple[int, Any]:
        """Post a body, bytes as they are and else as JSON; return the answer's status and content."""
        answer = self.ask(request(body, path, f"Connection: close\r\n{headers}"))
        head, _, content = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(content) if content[:1] in (b"{", b'"') else content

    def ping_s(self) -> float:
        """Return how many seconds a new client waits for an answer."""
        return self.waited_s(self._ping)

    def _ping(self) -> None:
        assert b'"pong"' in self.ask(b"GET /v1/ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    def waited_s(self, ask: Callable[[], object]) -> float:
        """Return how many seconds a question takes, without those in which others have the processors."""
        started, queued_s = time.monotonic(), self._queued_s()
        ask()
        return time.monotonic() - started - (self._queued_s() - queued_s)

    def _queued_s(self) -> float:
        """Return for how long the server's loop and this thread have waited for a processor so far."""
        tasks = (f"{self.process.pid}/task/{self.process.pid}", f"self/task/{threading.get_native_id()}")
        return sum(int(Path(f"/proc/{task}/schedstat").read_text().split()[1]) for task in tasks) / 1e9

    def slowest_ping_s(self, during: threading.Thread | None = None, seconds: float = 3.0) -> float:
        """Return the longest wait of a client that asks again and again, for a time or while something goes on."""
        slowest, end = 0.0, time.monotonic() + seconds
        while during.is_alive() if during is not None else time.monotonic() < end:
            slowest = max(slowest, self.ping_s())
            time.sleep(0.02)
        return slowest

    def rss(self) -> int:
        """Return the resident memory of the server and of what it has started, in bytes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        pages = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in (self.process.pid, *children)]
        return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")

    def num_connections(self) -> int:
        """Return how many sockets the server holds."""
        number = 0
        for fd in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was just closed
                number += os.readlink(fd).startswith("socket:")
        return number


def read_all(connection: socket.socket) -> bytes:
    """Return all that comes until the other side hangs up."""
    parts = []
    with contextlib.suppress(ConnectionError, TimeoutError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def request(body: Any, path: str = "/run_code", headers: str = "") -> bytes:
    """Return a request as it goes over the line."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data


@contextlib.contextmanager
def server_process(token: str | None = None, **bounds: Any) -> Iterator[Served]:
    """A server with these bounds, ended afterwards."""
    command = [sys.executable, "-m", "tests.envs.fusion_process", json.dumps({"token": token, "bounds": bounds})]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield Served(process, int(process.stdout.readline().rpartition(":")[2]))
        assert process.poll() is None, "the server has died"
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    """Serve until told to end."""
    arguments = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
    server = SandboxServer(
        Idle(),  # type: ignore[arg-type]
        port=0,
        token=arguments["token"],
        bounds=Bounds(**arguments["bounds"]),
        log=log_to_stderr,
    )
    serve(server, lambda address: print(address, flush=True))


if __name__ == "__main__":
    main()
