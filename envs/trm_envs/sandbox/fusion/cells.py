"""The cells of a notebook, run one after another in a session."""

import contextlib
import dataclasses
import time

from trm_envs.sandbox.fusion import schema as schema
from trm_envs.sandbox.fusion.jobs import Job
from trm_envs.sandbox.interface import Result, Sandbox, Status


async def run_cells(sandbox: Sandbox, job: Job, most_bytes: int) -> list[Result]:
    """Run cells until one ends the interpreter, or all together have taken or printed too much.

    Returns:
        The results of those that ran.
    """
    results: list[Result] = []
    left_s, left_bytes, ended = job.total_s, most_bytes, 0.0
    with contextlib.closing(sandbox.session()) as session:
        for number, cell in enumerate(job.cells, 1):
            if left_s < 0.01:
                results.append(Result(Status.TIMEOUT, state_lost=True))
                break
            is_last = number == len(job.cells)
            wall_s = job.last_wall_s if is_last else job.limits.wall_s
            limits = dataclasses.replace(job.limits, wall_s=min(wall_s, left_s))
            code = cell.decode("utf-8", "surrogateescape")
            outputs, files = job.outputs if is_last else [], job.files if number == 1 else None
            result = await session.arun(code, files=files, limits=limits, outputs=outputs)
            results.append(schema.untold(result) if number <= job.num_replayed else result)
            # after the first cell, whose start costs nobody, pauses count too: the program can make them long
            before, ended = ended, time.monotonic()
            left_s -= max(result.duration_s, ended - before) if before else result.duration_s
            left_bytes -= len(results[-1].stdout) + len(results[-1].stderr)
            if left_bytes < 0 and results[-1].status is not Status.SANDBOX_ERROR:
                results[-1] = dataclasses.replace(schema.untold(result), status=Status.OUTPUT_LIMIT, state_lost=True)
            if results[-1].state_lost or results[-1].status is Status.SANDBOX_ERROR:
                break
    return results
