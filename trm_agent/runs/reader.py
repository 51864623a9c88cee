"""Who reads a command's output: one who closes the pipe, as `head` does, ends the command without a word."""

import os
import select
import signal
import sys
from collections.abc import Callable

EXIT_CODE = 128 + signal.SIGPIPE


def ended_by_reader(command: Callable[[], int]) -> int:
    """Run a command until its reader has enough.

    Returns:
        The command's exit code; 141, as of a process that SIGPIPE ends, if nobody reads its output any more.
    """
    try:
        try:
            code = command()
        except SystemExit:
            # after --help
            _flush()
            raise
        _flush()
    except BrokenPipeError:
        if not is_reader_gone():
            raise
        # what is still in the buffer would be written at the interpreter's end, and fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CODE
    return code


def is_reader_gone() -> bool:
    """Return True if nobody reads the standard output any more; other pipes break too."""
    if sys.stdout is None:
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _flush() -> None:
    # None where the command began with a closed output
    if sys.stdout is not None:
        sys.stdout.flush()
