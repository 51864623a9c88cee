"""Requests to a SandboxFusion server: deadlines, a bound on how many at once, retries where one can help."""

import asyncio
import base64
import contextlib
import dataclasses
import json
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import unquote, urlsplit

from trm_envs.sandbox.fusion.decoding import TooManyValues, decode_answer
from trm_envs.sandbox.fusion.places import BEGUN, IN_QUEUE
from trm_envs.sandbox.interface import Result, Status
from trm_envs.tool_time import waiting

RETRIED = (429, 500, 502, 503, 504)
FIRST_PAUSE_S = 0.25
LAST_PAUSE_S = 8.0
MOST_BYTES = 1 << 25
"""Largest length of a request: our own server's default."""
TOO_LONG = "the program is too long"
TOO_MUCH = "the program wrote too much"
QUEUE_S = 3600.0
"""Longest wait in the queue of a server that keeps sending signs of life."""


class Deadline:
    """The deadlines of an answer.

    Args:
        seconds: from now, and again from each sign that the request still waits in the server's queue.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic() + QUEUE_S
        self._end = 0.0
        self.begin_again()

    def begin_again(self) -> None:
        """Start counting anew."""
        self._end = min(time.monotonic() + self._seconds, max(self._last, self._end))

    @property
    def left_s(self) -> float:
        """The seconds until then."""
        return self._end - time.monotonic()


class AnswerTooLong(Exception):
    """An answer is longer than any within the limits; the program's output makes it long."""


class Poster:
    """Posts JSON to a server; every call runs on the same event loop.

    Args:
        endpoint: the server's address, with its token.
        shown: the address as messages show it.
        max_concurrent: how many requests are under way at once.
        retries: how often a failed request is repeated.
    """

    def __init__(self, endpoint: str, shown: str, max_concurrent: int, retries: int) -> None:
        self._endpoint, self._headers = _without_credentials(endpoint)
        self._shown = shown
        self._max_concurrent = max_concurrent
        self._retries = retries
        self._session: Any = None
        self._slots: asyncio.Semaphore | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def post(
        self, path: str, body: dict[str, Any], deadline_s: float, max_bytes: int, read: Callable[[Any], Result]
    ) -> Result:
        """Post a request and return the result that `read` makes of its answer; never raises for a server's fault.

        Args:
            path: the call, such as "/run_code".
            body: the request, as JSON.
            deadline_s: seconds in which each attempt must have been answered, a known wait in the queue apart.
            max_bytes: how long an answer may be.
            read: makes a result of the decoded answer; a ValueError of it means a malformed answer.
        """
        data = json.dumps(body).encode("ascii")
        if len(data) > MOST_BYTES:
            message = f"{TOO_LONG}: {len(data)} bytes with all that it needs; a server takes {MOST_BYTES}"
            return Result(Status.ERROR, stderr=f"{message}\n", return_code=1, message=message)
        if self._slots is None:
            self._slots = asyncio.Semaphore(self._max_concurrent)
        pause = FIRST_PAUSE_S
        for attempt in range(self._retries + 1):
            with waiting():
                await self._slots.acquire()
            try:
                result, can_help = await self._once(path, data, deadline_s, max_bytes, read)
            finally:
                self._slots.release()
            if not can_help or attempt == self._retries:
                break
            with waiting():
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LAST_PAUSE_S)
        return result

    async def ping(self, deadline_s: float) -> Result:
        """Return `ok` if the server says that it is there."""

        def read(answer: Any) -> Result:
            if answer != "pong":
                raise ValueError(f"expected the word pong, got {str(answer)[:50]!r}")
            return Result(Status.OK)

        return (await self._once("/v1/ping", None, deadline_s, 1000, read))[0]

    async def close(self) -> None:
        """End running requests and release the connections."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def tracked(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Await a call such that `close` ends it, as `sandbox_error`."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await call
        except asyncio.CancelledError:
            if self._closing:
                return _failure("the sandbox was closed during the call")
            raise
        finally:
            self._tasks.discard(task)

    async def _once(
        self, path: str, data: bytes | None, deadline_s: float, max_bytes: int, read: Callable[[Any], Result]
    ) -> tuple[Result, bool]:
        """One attempt; the result, and whether another one can help."""
        import aiohttp  # for a caller who only names this backend

        try:
            code, content = await self._exchange(path, data, deadline_s, max_bytes)
        except AnswerTooLong:
            # a server that cuts nothing: the policy could have any episode vanish by printing
            message = f"{TOO_MUCH}: {self._shown}{path} gave an answer of over {max_bytes} bytes"
            return Result(Status.OUTPUT_LIMIT, message=message), False
        except asyncio.TimeoutError:
            # no retry: a server that is behind is not helped by the same work once more
            return _failure(f"{self._shown}{path} did not answer within {deadline_s:g} s"), False
        except aiohttp.ClientError as error:
            return _failure(f"{self._shown}{path}: {str(error) or type(error).__name__}"), True
        except (OSError, ValueError) as error:
            return _failure(f"{self._shown}{path}: {type(error).__name__}: {error}"), isinstance(error, OSError)
        if code != 200:
            text = content[:500].decode("utf-8", "replace")
            return _failure(f"{self._shown}{path} answered with HTTP {code}: {text}"), code in RETRIED
        try:
            result = read(decode_answer(content))
        except TooManyValues as error:
            return Result(Status.OUTPUT_LIMIT, message=f"{TOO_MUCH}: {self._shown}{path} gave {error}"), False
        except Exception as error:  # whatever the answer holds
            text = content[:100].decode("utf-8", "replace")
            return _failure(f"{self._shown}{path} gave a malformed answer: {error}; it begins with {text!r}"), False
        result = dataclasses.replace(result, message=_printable(result.message))
        return result, result.status is Status.SANDBOX_ERROR and not result.state_lost

    async def _exchange(self, path: str, data: bytes | None, deadline_s: float, max_bytes: int) -> tuple[int, bytes]:
        """Send a request and return the answer's code and content; until the program is known to run, that is a wait.

        Raises:
            asyncio.TimeoutError: if the deadline is over.
            aiohttp.ClientError: if the connection breaks.
            AnswerTooLong: if a result is longer than `max_bytes`.
            ValueError: if anything else is.
        """
        deadline = Deadline(deadline_s)
        with contextlib.ExitStack() as wait:
            wait.enter_context(waiting())
            reading = asyncio.ensure_future(self._read(path, data, max_bytes, deadline, wait))
            try:
                while not reading.done():
                    if deadline.left_s <= 0:
                        raise asyncio.TimeoutError
                    await asyncio.wait({reading}, timeout=deadline.left_s)
                return reading.result()
            finally:
                if not reading.done():
                    reading.cancel()
                    await asyncio.wait({reading})

    async def _read(
        self, path: str, data: bytes | None, max_bytes: int, deadline: Deadline, wait: contextlib.ExitStack
    ) -> tuple[int, bytes]:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        request = self._session.request(
            "GET" if data is None else "POST",
            f"{self._endpoint}{path}",
            data=data,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None),
            allow_redirects=False,
        )
        content = bytearray()
        async with request as response:
            num_bytes = 0
            async for chunk in response.content.iter_chunked(1 << 16):
                num_bytes += len(chunk)
                if num_bytes > max_bytes:
                    if content and response.status == 200:
                        raise AnswerTooLong
                    raise ValueError(f"an answer of over {max_bytes} bytes")
                if not content and not chunk.strip(IN_QUEUE):
                    deadline.begin_again()
                    continue
                if not content and chunk.strip(IN_QUEUE).startswith(BEGUN):
                    deadline.begin_again()
                    wait.close()
                content += chunk
            return response.status, bytes(content)


def _failure(message: str) -> Result:
    return Result(Status.SANDBOX_ERROR, message=_printable(message))


def _printable(text: str) -> str:
    """Return a text with escapes in the place of characters that would control a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _without_credentials(endpoint: str) -> tuple[str, dict[str, str]]:
    """Return the address alone and the headers; not every release of aiohttp sends a password without a name."""
    parts = urlsplit(endpoint)
    credentials, at, host = parts.netloc.rpartition("@")
    headers = {"Content-Type": "application/json"}
    if at:
        name, _, password = credentials.partition(":")
        told = f"{unquote(name)}:{unquote(password)}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(told).decode()}"
    return parts._replace(netloc=host).geturl(), headers
