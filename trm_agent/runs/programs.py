"""What another program says, and why it says nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

LIMIT_S = 15.0


def output_of(command: Sequence[str], limit_s: float = LIMIT_S) -> tuple[str | None, str]:
    """Return what a program prints.

    Args:
        command: the program and its arguments.
        limit_s: seconds after which it is ended.

    Returns:
        Its standard output, or None if it does not exist, fails or takes too long; and the reason, in a line.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL)
    except OSError as error:
        return None, error.strerror or type(error).__name__
    except subprocess.TimeoutExpired:
        return None, f"no answer within {limit_s:g} s"
    if done.returncode == 0:
        return done.stdout, ""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return None, said[-1] if said else f"exit status {done.returncode}"
