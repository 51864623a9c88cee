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
    """A sandbox that runs nothing: it takes the seconds that the program's text says, prints or leaves what it asks."""

    limits = Limits()
    max_concurrent = 4

    async def arun(self, code: str, *_: Any, **__: Any) -> Result:
        word, _, number = code[:40].partition(" ")
        if word == "sleep":
            await asyncio.sleep(float(number.split()[0]))
        if word == "file":
            return Result(Status.OK, return_code=0, files={"a": b"x" * int(number)})
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
        """Return how many seconds a question takes, without those in which others have the processors.

        The server's loop waits for its own threads and processes as for others: what these take is not subtracted.
        """
        queued, ran, started = self._queued_s(), self._ran_s(), time.monotonic()
        ask()
        lasted = time.monotonic() - started
        waited = max(after - before for before, after in zip(queued, self._queued_s(), strict=True))
        own = sum(seconds - ran.get(task, 0.0) for task, seconds in self._ran_s().items())
        return lasted - min(lasted, max(0.0, waited - own))

    def _queued_s(self) -> tuple[float, float]:
        """Return for how long the server's loop and this thread have waited for a processor so far."""
        server, client = Path(f"/proc/{self.process.pid}/task/{self.process.pid}"), Path("/proc/thread-self")
        return _schedule_of(server)[1], _schedule_of(client)[1]

    def _ran_s(self) -> dict[str, float]:
        """Return for how long each thread of the server, without its loop, and of its processes has run so far."""
        ran = {}
        for pid in (self.process.pid, *self._children()):
            for task in Path(f"/proc/{pid}/task").glob("*"):
                with contextlib.suppress(OSError):  # it has just ended
                    ran[task.name] = _schedule_of(task)[0]
        return {task: seconds for task, seconds in ran.items() if task != str(self.process.pid)}

    def _children(self) -> list[str]:
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*")  # it is a thread that starts a process
        found = []
        for task in tasks:
            with contextlib.suppress(OSError):  # it has just ended
                found += (task / "children").read_text().split()
        return found

    def slowest_ping_s(self, during: threading.Thread | None = None, seconds: float = 3.0) -> float:
        """Return the longest wait of a client that asks again and again, for a time or while something goes on."""
        slowest, end = 0.0, time.monotonic() + seconds
        while during.is_alive() if during is not None else time.monotonic() < end:
            slowest = max(slowest, self.ping_s())
            time.sleep(0.02)
        return slowest

    def rss(self) -> int:
        """Return the resident memory of the server and of what it has started, in bytes."""
        pages = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in (self.process.pid, *self._children())]
        return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")

    def num_connections(self) -> int:
        """Return how many sockets the server holds."""
        number = 0
        for fd in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was just closed
                number += os.readlink(fd).startswith("socket:")
        return number


def _schedule_of(task: Path) -> tuple[float, float]:
    """Return for how many seconds a thread has run, and has waited for a processor."""
    ran, waited = (task / "schedstat").read_text().split()[:2]
    return int(ran) / 1e9, int(waited) / 1e9


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
