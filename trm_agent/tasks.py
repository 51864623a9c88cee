"""Tasks: an environment, a seed and options. Training, validation and evaluation draw them here, so they can agree."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

import trm_envs
from trm_agent.episode.call_protocol import DEFAULT, resolved
from trm_envs.own_modules import import_module, told_of_kind, told_of_unknown

__all__ = [
    "STREAMS",
    "Task",
    "has_one_task",
    "import_module",
    "is_of_suite",
    "is_ours",
    "make_env",
    "num_greedy",
    "task_at",
    "task_seed",
    "told_of_kind",
    "told_of_unknown",
]
TRAIN, VALIDATION = "train", "val"
STREAMS = {TRAIN: 0, VALIDATION: 1}


@dataclass(frozen=True)
class Task:
    """The task of one episode."""

    env_id: str
    seed: int
    """Seed for `env.reset`, 32 bits."""
    options: dict[str, Any]
    """Options for `env.reset`: `horizon` and `split`."""


def task_seed(base_seed: int, stream: str, index: int) -> int:
    """Return the seed of task `index`: a 32-bit hash of a base seed, the stream and the index."""
    return int(np.random.SeedSequence([base_seed, STREAMS[stream], index]).generate_state(1)[0])


def task_at(env: Mapping[str, Any], stream: str, index: int) -> Task:
    """Return task `index` of a stream.

    Task `i` takes horizon `i mod len(horizons)`, so any run of tasks of a multiple of that length has the same mixture.

    Args:
        env: the configuration's `env` section.
        stream: `train` or `val`.
        index: from 0 on.
    """
    settings = env[stream]
    horizons = settings["horizons"]
    options = {"horizon": int(horizons[index % len(horizons)]), "split": settings["split"]}
    return Task(env["id"], task_seed(int(settings["seed"]), stream, index), options)


def num_greedy(env: Mapping[str, Any], stream: str) -> int:
    """Return how many tasks of a stream are played greedily as well: of validation `greedy_tasks`, at most all."""
    settings = env[stream]
    asked = settings.get("greedy_tasks", 0) if stream == VALIDATION else 0
    return min(int(asked), int(settings["num_tasks"]))


def make_env(env_id: str, module: str | None, kwargs: Mapping[str, Any]) -> gymnasium.Env:
    """Build an environment.

    Args:
        env_id: a Gymnasium id.
        module: the user's module that registers it, imported first; None for an environment of the suite.
        kwargs: for `gymnasium.make`; `protocol=auto` is the environment's default if no model has decided it before.
    """
    if module:
        import_module(module)
    return gymnasium.make(env_id, **resolved(kwargs, DEFAULT))


def is_of_suite(env_id: str) -> bool:
    """Return True for an id of this package, whose tasks a seed decides."""
    return env_id in trm_envs.registered_ids()


def is_ours(env: gymnasium.Env) -> bool:
    """Return True if an environment keeps the contract that training and evaluation rely on."""
    return isinstance(env.unwrapped, trm_envs.ToolEnv)


def has_one_task(env: Mapping[str, Any]) -> bool | None:
    """Return True if an environment says that it has one task, so that none of its results is held out.

    Args:
        env: `id`, `module` and `kwargs` of the environment.

    Returns:
        None if the environment cannot be made, so that it says nothing.
    """
    try:
        made = make_env(env["id"], env["module"], env["kwargs"])
    except Exception:
        return None
    try:
        return bool(made.get_wrapper_attr("one_task"))
    except AttributeError:
        return False
    finally:
        made.close()
