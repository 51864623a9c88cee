"""Copy standard input to a log: without colours, and without the thousandth copy of a line.

`start` runs this file as a process of its own, by path and with the standard library alone, so that the last words of
a process that crashes are written all the same.
"""

import atexit
import contextlib
import os
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

NUM_IN_FULL = 3
"""Copies of a line that are written before only the 10th, 100th, 1000th is."""
NUM_REMEMBERED = 1000
_LEAST_BYTES = 20
_WAIT_SECONDS = 5
_COLOUR = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
# who wrote a line, when, and how often Ray has seen it
_CHANGES = re.compile(
    rb"^\([\w .:-]+ pid=\d+[^)]*\) ?|\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?|\d\d-\d\d \d\d:\d\d:\d\d"
    rb"| ?\[repeated \d+x across cluster\].*$"
)


class Copies:
    """The lines that were seen, as far as they are remembered."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, int] = OrderedDict()

    def told(self, line: bytes) -> bytes | None:
        """Return a line as it goes into the log; None for one of many copies.

        Args:
            line: without its end. Lines that begin with a space, as those of a traceback, are no copies of each other.
        """
        # a progress bar draws over itself
        line = _COLOUR.sub(b"", line).rstrip(b"\r").rpartition(b"\r")[2]
        key = _CHANGES.sub(b"", line)
        if len(key) < _LEAST_BYTES or key[:1].isspace():
            return line
        number = self._seen.pop(key, 0) + 1
        self._seen[key] = number
        if len(self._seen) > NUM_REMEMBERED:
            self._seen.popitem(last=False)
        if number <= NUM_IN_FULL:
            return line
        return b"%s [%d times so far]" % (line, number) if str(number).strip("0") == "1" else None


def copy(source: int, log: int) -> None:
    """Copy a descriptor's lines to a log until its end; a log that cannot be written is left alone."""
    copies, rest = Copies(), b""
    while True:
        chunk = os.read(source, 1 << 16)
        *lines, rest = (rest + chunk).split(b"\n") if chunk else ([rest, b""] if rest else [b""])
        told = [text for line in lines if (text := copies.told(line)) is not None]
        with contextlib.suppress(OSError):
            os.write(log, b"".join(text + b"\n" for text in told))
        if not chunk:
            return


def start(log: Path) -> None:
    """Send standard output and standard error of this process through a copy into a log."""
    log.touch()
    command = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(log)]
    # a session of its own: it outlives a signal to the group, and writes what the others say then
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), 1)
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    atexit.register(_finish, process, log)


def _finish(process: subprocess.Popen, log: Path) -> None:
    """Wait until everything is in the log."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # the folder of a run that was refused is gone
    rest = os.open(log if log.exists() else os.devnull, os.O_WRONLY | os.O_APPEND)
    os.dup2(rest, 1)
    os.dup2(rest, 2)
    os.close(rest)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_WAIT_SECONDS)


def main() -> None:
    """Copy standard input to the log that the command line names."""
    copy(0, os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))


if __name__ == "__main__":
    main()
