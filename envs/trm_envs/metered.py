"""A sandbox or a session whose programs are charged to an environment's tool time, and stopped when it runs out."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from trm_envs.errors import InfrastructureError, describe
from trm_envs.sandbox import Limits, Result, Runner, Status
from trm_envs.tool_time import LEAST_S, ToolTime, waiting


class Metered:
    """A runner that runs programs as the wrapped one does, within the rest of the budget; see `Runner.run`.

    A program costs the time on the clock that the sandbox reports for it. The time before and after, such as the wait
    for a free place, costs nothing, nor does a run in which the sandbox itself failed.

    Args:
        runner: returns the sandbox or session, at the first run; that costs nothing.
        tool_time: the budget.
    """

    def __init__(self, runner: Callable[[], Runner], tool_time: ToolTime) -> None:
        self._make = runner
        self._runner: Runner | None = None
        self._tool_time = tool_time

    def run(self, code: str, *args: Any, **kwargs: Any) -> Result:
        """Run a program; without any budget left, that is a timeout. `limits` are passed by name."""
        limits, left_s = kwargs.pop("limits", None) or Limits(), self._tool_time.left_s()
        if left_s < LEAST_S:
            return Result(Status.TIMEOUT)
        if self._runner is None:
            self._runner = self._made()
        limits = dataclasses.replace(limits, wall_s=min(limits.wall_s, left_s))
        run: Callable[..., Result] = self._runner.run
        with self._tool_time.program(limits.wall_s) as program:
            result = run(code, *args, limits=limits, **kwargs)
            is_told = result.duration_s > 0 or result.status is not Status.TIMEOUT
            program.ran(result.duration_s if is_told else limits.wall_s)
        return result

    def _made(self) -> Runner:
        try:
            with waiting():
                return self._make()
        except InfrastructureError:
            raise
        except Exception as error:  # such as a package that is not installed, which is not a program's fault
            raise InfrastructureError(f"no sandbox: {describe(error)}") from error

    async def arun(self, code: str, *args: Any, **kwargs: Any) -> Result:
        """Do the same in a thread."""
        return await asyncio.to_thread(self.run, code, *args, **kwargs)

    def close(self) -> None:
        """Close the wrapped runner, if it was made."""
        if self._runner is not None:
            self._runner.close()
