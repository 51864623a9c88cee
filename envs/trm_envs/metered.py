"""A sandbox or a session whose programs are charged to an environment's tool time, and stopped where that ends."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from trm_envs.sandbox import Limits, Result, Runner, Status
from trm_envs.sandbox.shared import shared_sandbox
from trm_envs.tool_time import LEAST_S, ToolTime, waiting


class Metered:
    """Runs programs as what it wraps does, for no longer than is left of the budget; see `Runner.run`.

    A program costs what the sandbox says that it ran, by the clock. What comes before and after, such as the wait for
    a free place, costs nothing, nor does a run that the sandbox itself failed.

    Args:
        runner: the sandbox or session, or what makes it at the first run; to make it costs nothing.
        tool_time: the budget.
    """

    def __init__(self, runner: Callable[[], Runner], tool_time: ToolTime) -> None:
        self._make = runner
        self._runner: Runner | None = None
        self._tool_time = tool_time

    def run(
        self,
        code: str,
        language: str = "python",
        stdin: str | bytes = "",
        files: Mapping[str, str | bytes] | None = None,
        limits: Limits | None = None,
        *,
        outputs: Sequence[str] = (),
    ) -> Result:
        """Run a program, unless nothing is left of the budget, which is a timeout."""
        limits, left_s = limits or Limits(), self._tool_time.left_s()
        if left_s < LEAST_S:
            return Result(Status.TIMEOUT)
        if self._runner is None:
            with waiting():
                self._runner = self._make()
        limits = dataclasses.replace(limits, wall_s=min(limits.wall_s, left_s))
        with self._tool_time.program(limits.wall_s) as program:
            result = self._runner.run(code, language, stdin, files, limits, outputs=outputs)
            is_told = result.duration_s > 0 or result.status is not Status.TIMEOUT
            program.ran(result.duration_s if is_told else limits.wall_s)
        return result

    def close(self) -> None:
        """Close what it wraps, if that was made."""
        if self._runner is not None:
            self._runner.close()


def metered_sandbox(name: str, tool_time: ToolTime) -> Metered:
    """Return this process's sandbox of that name, metered; see `shared_sandbox`. Do not close it."""
    return Metered(lambda: shared_sandbox(name), tool_time)


def metered_session(name: str, tool_time: ToolTime) -> Metered:
    """Return a session of that sandbox, metered; the caller closes it."""
    return Metered(lambda: shared_sandbox(name).session(), tool_time)
