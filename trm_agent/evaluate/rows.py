"""Ask the environment itself about its tasks: the problems of a user's file, and the texts of the first ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import gymnasium

from trm_agent.evaluate.environments import Counts, counted, has_rows
from trm_agent.evaluate.plan import Environment
from trm_agent.runs.row_files import HASH, ROWS, problems_of
from trm_agent.tasks import has_one_task, is_of_suite, make_env
from trm_envs.base import split_of


def with_problems(environment: Environment, counts: Counts) -> Environment:
    """Let an environment with a file ask the requested number of its problems.

    Raises:
        ValueError: as `with_rows` and `counted`; or horizons for problems that have no steps.
    """
    if not has_rows(environment):
        return environment
    # a suite asks all problems of a file, the others as many as they would draw tasks
    environment = with_rows(environment, None if counts.every_row else max(environment.num_tasks, counts.tasks or 1))
    if environment.rows_hash is not None and counts.horizons not in ((), (1,)):
        raise ValueError(
            f"--horizons: got {' '.join(map(str, counts.horizons))}; allowed: 1, since a row is one problem "
            "without steps; leave it out"
        )
    return counted(environment, counts)


def with_rows(environment: Environment, at_most: int | None = None) -> Environment:
    """Let an environment ask each problem of its file once; unchanged without a file, or with more tasks than one.

    Args:
        environment: with `rows` among its keyword arguments, or not.
        at_most: the largest number of tasks; None for all.

    Raises:
        ValueError: the file cannot be read or used, or the environment's split has none of its problems.
    """
    if not environment.kwargs.get(ROWS):
        return environment
    path = str(Path(environment.kwargs[ROWS]).expanduser().resolve())
    # the environment refuses rows at its own default horizon
    kwargs = {**environment.kwargs, ROWS: path, "horizon": 1}
    try:
        problems, is_one_a_task = problems_of(environment.id, environment.module, kwargs)
    except (gymnasium.error.Error, ImportError, TypeError):  # not ours; the check names the fault
        return environment
    if problems is None or not is_one_a_task:
        return environment
    splits = {number: split_of(problems.at(number).question) for number in problems.numbers}
    numbers = tuple(number for number, split in splits.items() if environment.split in (split, "all"))
    if not numbers:
        raise ValueError(
            f"{environment.name}: none of the {len(splits)} problems of {path} is in split {environment.split!r}; "
            "bring more problems"
        )
    return replace(
        environment,
        kwargs={**kwargs, HASH: problems.hash},
        horizons=(1,),
        num_tasks=len(numbers) if at_most is None else min(at_most, len(numbers)),
        rows_hash=problems.hash,
        row_numbers=numbers,
        rows_told=problems.told,
    )


def tasks_hash(environment: Environment) -> str | None:
    """Return a hash of the first task's text at each horizon.

    Returns:
        None for an environment outside this package, whose texts need not be the same each time.
    """
    if not is_of_suite(environment.id):
        return None
    digest = hashlib.sha256()
    made = make_env(environment.id, environment.module, environment.kwargs)
    try:
        for index in range(len(environment.horizons)):
            task = environment.task(index)
            told, info = made.reset(seed=task.seed, options=dict(task.options))
            system_prompt = made.get_wrapper_attr("system_prompt")
            digest.update(json.dumps([system_prompt, told, info["task_id"]]).encode())
    finally:
        made.close()
    return digest.hexdigest()[:16]


def is_held_out(environment: Environment) -> bool:
    """Return False for an environment with one task, which its training had too."""
    return not has_one_task({"id": environment.id, "module": environment.module, "kwargs": environment.kwargs})
