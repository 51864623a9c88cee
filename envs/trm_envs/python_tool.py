"""A Python tool in a sandbox, for environments that inherit it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Generic

from trm_envs.base import OptionsT, ToolEnv
from trm_envs.errors import InfrastructureError
from trm_envs.metered import Metered
from trm_envs.options import EnvOptions, check_integer, check_sandbox, check_seconds, cut_middle
from trm_envs.packages import check_pins, describe_packages, find_packages
from trm_envs.sandbox import Limits, Result, Sandbox, Status
from trm_envs.sandbox.shared import NAMES, shared_sandbox
from trm_envs.tools import tool

MAX_OUTPUT_CHARS = 4000
MEGABYTES = {"memory_mb": (32, 1 << 16), "stack_mb": (1, 100)}
"""Smallest and largest memory of a program, MiB."""


@dataclasses.dataclass(frozen=True)
class SandboxOptions(EnvOptions):
    """Options of environments that run a model's code.

    Raises:
        ValueError: if a value is not allowed.
    """

    sandbox: str = "local"
    """Place where code runs: "local", the URL of a SandboxFusion server, or "unsafe" (no isolation at all)."""
    tool_timeout_s: float = 5.0
    """Seconds that one run of a model's code may take, or less if the turn's or the episode's budget has less left."""
    memory_mb: int = 512
    """Memory of one run, in MiB."""
    stack_mb: int = 8
    """Stack of one run, in MiB, for deep recursion."""
    packages: Sequence[str] = ()
    """Packages for import beside the standard library, with versions: ["sympy==1.14.0"]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sandbox("sandbox", self.sandbox)
        check_seconds("tool_timeout_s", self.tool_timeout_s)
        check_integer("memory_mb", self.memory_mb, *MEGABYTES["memory_mb"])
        check_integer("stack_mb", self.stack_mb, *MEGABYTES["stack_mb"])
        object.__setattr__(self, "packages", check_pins("packages", self.packages))
        if self.packages and self.sandbox in NAMES:
            find_packages(self.packages)

    @property
    def prompt_note(self) -> str:
        """Return the system prompt's words on the packages."""
        return describe_packages(self.packages)

    def open_sandbox(self) -> Sandbox:
        """Return the sandbox that runs the code.

        Raises:
            SandboxUnavailable: if it cannot be had, or lacks a package.
        """
        return shared_sandbox(self.sandbox, tuple(self.packages))

    def limits(self, timeout_s: float, memory_mb: int | None = None, stack_mb: int | None = None) -> Limits:
        """Return the limits of one run of code.

        Args:
            timeout_s: seconds that it may take.
            memory_mb: the task's own limit; None takes the option's.
            stack_mb: likewise.
        """
        return Limits(
            wall_s=timeout_s,
            cpu_s=timeout_s,
            memory_bytes=(memory_mb or self.memory_mb) << 20,
            stack_bytes=(stack_mb or self.stack_mb) << 20,
        )


class PythonToolEnv(ToolEnv[OptionsT], Generic[OptionsT]):
    """A `ToolEnv` with the tool `python`, whose variables and files last for the episode."""

    options_class = SandboxOptions
    options: Any
    _session: Metered | None = None

    @tool
    def python(self, code: str) -> str:
        """Run Python code and return what it prints. Variables last from call to call.

        Args:
            code: the code; print what you want to see
        """
        if self._session is None:
            self._session = Metered(lambda: self.options.open_sandbox().session(), self.tool_time)
        return show_result(self._session.run(code, limits=self.options.limits(self.options.tool_timeout_s)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a new task with no variables; see `ToolEnv.reset`."""
        self._end_session()
        return super().reset(seed=seed, options=options)

    def close(self) -> None:
        """End the processes that the episode's code left running."""
        self._end_session()
        super().close()

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()


def show_result(result: Result) -> str:
    """Return the observation that shows a model the result of a run.

    Raises:
        InfrastructureError: if the sandbox failed, not the code.
    """
    if result.status is Status.SANDBOX_ERROR:
        raise InfrastructureError(f"the sandbox failed: {result.message}; see docs/sandbox.md")
    parts = [cut_middle(result.stdout, MAX_OUTPUT_CHARS).rstrip("\n")]
    if not result.ok:
        parts += [cut_middle(result.stderr, MAX_OUTPUT_CHARS).rstrip("\n"), _ENDINGS[result.status]]
    if result.state_lost:
        parts.append("(All variables are lost.)")
    return "\n".join(filter(None, parts)) or "(no output)"


_ENDINGS = {
    Status.ERROR: "(The code failed.)",
    Status.TIMEOUT: "(The code took too long and was stopped.)",
    Status.MEMORY: "(The code used too much memory and was stopped.)",
    Status.OUTPUT_LIMIT: "(The code printed too much and was stopped.)",
}
