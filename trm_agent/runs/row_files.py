"""Read the files of problems that a run or an evaluation names, and check that they stay the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trm_agent.runs.compose import plain
from trm_agent.tasks import make_env
from trm_envs.rows import Problems

if TYPE_CHECKING:
    from omegaconf import DictConfig

ROWS, HASH = "rows", "rows_hash"


def problems_of(env_id: str, module: str | None, kwargs: Mapping[str, Any]) -> tuple[Problems[Any] | None, bool]:
    """Read the problems of an environment's file.

    Args:
        env_id: a Gymnasium id.
        module: the module that registers it.
        kwargs: arguments of `gymnasium.make`.

    Returns:
        The problems, None for generated tasks; and True if a task is one problem.

    Raises:
        ValueError: the file cannot be read or used.
    """
    if not kwargs.get(ROWS):
        return None, False
    made = make_env(env_id, module, kwargs)
    try:
        inner = made.unwrapped
        problems = inner.problems() if hasattr(inner, "problems") else None
        return problems, hasattr(getattr(inner, "options", None), "row")
    finally:
        made.close()


def pin_rows(config: DictConfig) -> str:
    """Write the hash of a file's problems into a training's configuration, so that another file is noticed.

    Returns:
        The file's contents in words, for people; "" without a file.

    Raises:
        ValueError: the file cannot be read or used, or has another hash than `rows_hash`.
    """
    from omegaconf import open_dict

    env = config.env
    problems, _ = problems_of(env.id, env.module, plain(env.kwargs))
    if problems is None:
        return ""
    with open_dict(config):
        config.env.kwargs[HASH] = problems.hash
    return f"{problems.path}: {problems.told}"
