"""Demands on a machine that runs programs, handed to every process below by an environment variable."""

import os
from collections.abc import Iterable

REQUIRABLE = ("memory_cgroup", "pids_cgroup", "cpu_cgroup", "freezer", "room_for_500_sessions")
"""Demands that can be made."""
DEMANDS = "TRM_SANDBOX_REQUIRE"
"""Name of the environment variable with demands, separated by commas; `sandbox.require` of a training sets it."""
FIELD = "sandbox.require"


def demand(names: Iterable[str]) -> None:
    """Make demands on the local sandboxes of this process and of those that it starts."""
    if names := list(names):
        os.environ[DEMANDS] = ",".join(names)


def demanded() -> list[str]:
    """Return the demands of the environment variable."""
    return [name.strip() for name in os.environ.get(DEMANDS, "").split(",") if name.strip()]
