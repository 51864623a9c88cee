"""A finding about this machine, and commands that a probe runs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "missing"]
COMMAND_LIMIT_S = 15.0


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: State
    """`missing`: the main job cannot run; `warning`: something else cannot, or not well."""
    told: str
    """Fact, in one line."""
    remedy: str = ""
    """Command or setting that changes it; empty where nothing needs changing."""

    def __post_init__(self) -> None:
        assert self.state == "ok" or self.remedy, f"{self.told}: a finding that is not ok has a remedy"

    def as_json(self) -> dict[str, Any]:
        """Return the finding as `--json` prints it."""
        return asdict(self)


def ok(told: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding("ok", told)


def output_of(command: Sequence[str], limit_s: float = COMMAND_LIMIT_S) -> tuple[str | None, str]:
    """Return the output of a command.

    Returns:
        Its standard output, or None if it does not exist, fails or takes too long; and the reason, in a line.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL)
    except OSError as error:
        return None, f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return None, f"no answer within {limit_s:g} s"
    if done.returncode == 0:
        return done.stdout, ""
    said = done.stderr.strip() or done.stdout.strip()
    return None, said.splitlines()[-1] if said else f"exit status {done.returncode}"
