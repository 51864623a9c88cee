"""A program's output, and the meaning of its end."""

import os
import signal
from typing import Any

from trm_envs.sandbox.interface import Status

_CHUNK = 1 << 16
_STATUSES = {
    "timeout": Status.TIMEOUT,
    "memory": Status.MEMORY,
    "output_limit": Status.OUTPUT_LIMIT,
    "done": Status.OK,
    "raised": Status.ERROR,
}
_CELL_CODES = {"done": 0, "raised": 1}


class Streams:
    """The host's ends of a program's stdout and stderr, and the bytes received so far."""

    def __init__(self, out: int, err: int) -> None:
        self.out, self.err = out, err
        self._held = {out: bytearray(), err: bytearray()}
        for fd in self._held:
            os.set_blocking(fd, False)

    def read(self, fd: int, limit: int) -> bool:
        """Read from `fd`; return False if there is nothing, nothing more to come, or over `limit`."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        self._held[fd] += data
        return bool(data) and len(self._held[fd]) <= limit

    def read_all(self, limit: int) -> None:
        """Read the waiting bytes of each stream, up to a little over `limit`."""
        for fd in self._held:
            while self.read(fd, limit):
                pass

    def is_over(self, limit: int) -> bool:
        """Return True if either stream brought more than `limit` bytes."""
        return any(len(held) > limit for held in self._held.values())

    def take(self, limit: int) -> dict[str, Any]:
        """Return the texts as a result has them, and forget them."""
        texts: dict[str, Any] = {}
        for name, fd in (("stdout", self.out), ("stderr", self.err)):
            held = bytes(self._held[fd])
            texts[name] = held[:limit].decode("utf-8", "replace")
            texts[f"{name}_truncated"] = len(held) > limit
            self._held[fd].clear()
        return texts

    def close(self) -> None:
        """Close both."""
        os.close(self.out)
        os.close(self.err)


def judge(verdict: str, return_code: int | None, stderr: str, is_cpu_spent: bool = False) -> tuple[Status, int | None]:
    """Return the status and the return code of a run.

    Args:
        verdict: "exited" by itself, stopped by "timeout", "memory" or "output_limit", or a cell "done" or "raised".
        return_code: of a program that exited, the signal's number negated.
        stderr: its error output.
        is_cpu_spent: True if its process used up its processor time.
    """
    if verdict != "exited":
        status, return_code = _STATUSES[verdict], _CELL_CODES.get(verdict)
    elif return_code == -signal.SIGXCPU or (return_code == -signal.SIGKILL and is_cpu_spent):
        status = Status.TIMEOUT
    else:
        status = Status.OK if return_code == 0 else Status.ERROR
    if return_code == 1 and stderr.rstrip().rpartition("\n")[2].startswith("MemoryError"):
        status = Status.MEMORY
    return status, return_code
