"""A Python tool in a sandbox, for environments that inherit it."""

import dataclasses
from typing import Any, Generic

from trm_envs.base import OptionsT, ToolEnv
from trm_envs.errors import InfrastructureError
from trm_envs.options import EnvOptions, check_sandbox, check_seconds, cut_middle
from trm_envs.sandbox import Limits, Result, Runner, Status
from trm_envs.sandbox.shared import shared_sandbox
from trm_envs.tools import tool

MAX_OUTPUT_CHARS = 4000


@dataclasses.dataclass(frozen=True)
class SandboxOptions(EnvOptions):
    """Options of environments that run a model's code.

    Raises:
        ValueError: if a value is not allowed.
    """

    sandbox: str = "local"
    """Where code runs: "local", the URL of a SandboxFusion server, or "unsafe" (no isolation at all)."""
    tool_timeout_s: float = 5.0
    """Seconds that one run of a model's code may take."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sandbox("sandbox", self.sandbox)
        check_seconds("tool_timeout_s", self.tool_timeout_s)


class PythonToolEnv(ToolEnv[OptionsT], Generic[OptionsT]):
    """A `ToolEnv` with the tool `python`, whose variables and files last for the episode."""

    options_class = SandboxOptions
    options: Any
    _session: Runner | None = None

    @tool
    def python(self, code: str) -> str:
        """Run Python code and return what it prints. Variables last from call to call.

        Args:
            code: the code; print what you want to see
        """
        if self._session is None:
            self._session = shared_sandbox(self.options.sandbox).session()
        return show_result(self._session.run(code, limits=limits_of(self.options.tool_timeout_s)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a new task with no variables; see `ToolEnv.reset`."""
        self._end_session()
        return super().reset(seed=seed, options=options)

    def close(self) -> None:
        """End what the episode's code has left running."""
        self._end_session()
        super().close()

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()


def limits_of(timeout_s: float) -> Limits:
    """Return the limits of one run of a model's code."""
    return Limits(wall_s=timeout_s, cpu_s=timeout_s)


def show_result(result: Result) -> str:
    """Return what a model is told of a run.

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
