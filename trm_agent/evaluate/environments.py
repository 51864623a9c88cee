"""Resolve a user's name (a choice of conf/env, a Gymnasium id, a training run) to an `Environment` of the plan."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import yaml

from trm_agent.episode import Limits
from trm_agent.evaluate.plan import Environment
from trm_agent.runs.compose import CONF, choices, compose_tree, plain
from trm_agent.runs.row_files import ROWS
from trm_agent.tasks import VALIDATION
from trm_fields import Number, OneOf, closest, refuse

CUSTOM = "custom"
# its token budgets hold for models that think aloud
LARGE_EXPERIMENT = "math_qwen3_8b"
NUM_TASKS, TASK_SEED = 100, 20260101
_LIMITS = "limits"
_DEEPEST = 100
# in C, where it was built; for events alone, which take any nesting
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Counts:
    """The tasks that the user asks for; () or None by default."""

    horizons: tuple[int, ...] = ()
    tasks: int | None = None
    limit: int | None = None
    """Largest number of the tasks to play."""
    every_row: bool = False
    """True to play all problems of a file, as in a suite, instead of the number of generated tasks."""


@dataclass(frozen=True)
class Change:
    """A FIELD=VALUE of the user's."""

    env: str | None
    """Name of the environment; None for all."""
    field: str
    """A keyword argument of the environment, or `limits.` and a limit."""
    value: Any


def named(name: str) -> Environment:
    """Find a choice of conf/env, an `ID` or a `MODULE:ID`, with the nano model's token budgets.

    Raises:
        ValueError: there is neither such a choice nor such an id.
    """
    known = [choice for choice in choices("env") if choice != CUSTOM]
    if name in known:
        return _of_section(name, _composed(name)["env"])
    module, _, env_id = name.rpartition(":")
    if not module and "/" not in env_id and env_id not in gymnasium.registry:
        OneOf(known, "a Gymnasium id, or MODULE:ID of your own package").check("--env", name)
    section = {**_composed(CUSTOM)["env"], "id": env_id, "module": module or None}
    return _of_section(env_id, section)


def of_run(config: Mapping[str, Any]) -> Environment:
    """Return the environment of a run's validation, with its tasks, their number and its limits.

    Args:
        config: the run's `config.yaml`.
    """
    section, data = config["env"], config["data"]
    tokens = {"max_prompt_tokens": data["max_prompt_length"], "max_response_tokens": data["max_response_length"]}
    settings = section[VALIDATION]
    environment = _of_section(_name_of(section["id"]), section)
    return replace(
        environment,
        num_tasks=settings["num_tasks"],
        seed=settings["seed"],
        split=settings["split"],
        limits={**section["limits"], **tokens},
    )


def with_large_budgets(environment: Environment) -> Environment:
    """Return the environment with the token budgets of the experiments on a GPU instead of the nano model's."""
    config = compose_tree([f"experiment={LARGE_EXPERIMENT}"])
    limits = plain(config.env)["limits"]
    tokens = {
        "max_turn_tokens": limits["max_turn_tokens"],
        "max_observation_tokens": limits["max_observation_tokens"],
        "max_prompt_tokens": config.data.max_prompt_length,
        "max_response_tokens": config.data.max_response_length,
    }
    return replace(environment, limits={**environment.limits, **tokens})


def changes(texts: Sequence[str], names: Sequence[str]) -> list[Change]:
    """Read the user's FIELD=VALUE texts; a value is JSON, else text.

    Args:
        texts: `kwarg=...`, `limits.max_turns=...`, or either after `ENV.`.
        names: of the environments.

    Raises:
        ValueError: a text without `=`, or a limit that does not exist.
    """
    found = []
    for before, text in zip(["", *texts], texts, strict=False):
        path, equals, written = text.partition("=")
        if not equals or not path:
            example = "e.g. --set reveal=upfront limits.max_turn_tokens=512"
            if before:
                example += f"; if it belongs to the value before it, quote both: {shlex.quote(f'{before} {text}')}"
            refuse("--set", text, "FIELD=VALUE", example)
        env = next((name for name in names if path.startswith(f"{name}.")), None)
        field = path.removeprefix(f"{env}.") if env else path
        group, dot, limit = field.partition(".")
        known = [each.name for each in fields(Limits)]
        if dot and (group != _LIMITS or limit not in known):
            allowed = [f"{_LIMITS}.{each}" for each in known]
            raise ValueError(f"--set {path}: no such setting; {closest(field, [*allowed, *names])}")
        try:
            value = json.loads(written)
        except ValueError:
            value = written
        found.append(Change(env, field, value))
    return found


def changed(environment: Environment, wanted: Sequence[Change]) -> Environment:
    """Apply the user's changes; a limit set this way holds at every horizon."""
    mine = [change for change in wanted if change.env in (None, environment.name)]
    prefix = f"{_LIMITS}."
    limits = {change.field.removeprefix(prefix): change.value for change in mine if change.field.startswith(prefix)}
    kwargs = {change.field: change.value for change in mine if not change.field.startswith(prefix)}
    return replace(
        environment,
        fixed_limits={**environment.fixed_limits, **limits},
        kwargs={**environment.kwargs, **kwargs},
    )


def has_rows(environment: Environment) -> bool:
    """Return True if the tasks come from a user's file."""
    return bool(environment.kwargs.get(ROWS))


def counted(environment: Environment, counts: Counts) -> Environment:
    """Return the environment with the number of tasks that the user asks for.

    Raises:
        ValueError: more tasks than a file has problems.
    """
    number = environment.num_tasks
    if counts.tasks is not None:
        most = len(environment.row_numbers)
        if environment.rows_hash is not None:
            Number(
                f"of at most {most}, the problems of the file ({environment.rows_told})",
                lambda tasks: tasks <= most,
                kind=int,
            ).check("--tasks", counts.tasks, "lower it, or leave it out")
        number = counts.tasks
    return replace(environment, num_tasks=number if counts.limit is None else min(number, counts.limit))


def nano_settings(name: str) -> dict[str, Any]:
    """Return the fields of the `NanoSpec` that half knows a choice of conf/env, the default model's for another id."""
    known = choices("env")
    return _composed(name if name in known and name != CUSTOM else "chain_math")["nano"]


def load_run_config(run: Path) -> dict[str, Any]:
    """Return the `config.yaml` of a training run.

    Raises:
        ValueError: the folder is not a training run.
    """
    file = run / "config.yaml"
    try:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        _check_plain(text)
        config = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: {reason}; give the folder of a run whose configuration can be read") from error
    if not isinstance(config, dict) or "env" not in config or "data" not in config:
        raise ValueError(f"{run}: no training run (its config.yaml has no environment); give the folder of a run")
    return config


def _check_plain(text: str) -> None:
    """Refuse YAML that no training writes: aliases, of which a few lines mean billions of values, and deep nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
            raise ValueError(f"it has an alias, such as *name, or more than {_DEEPEST} levels")


@cache
def _composed(name: str) -> dict[str, Any]:
    config = compose_tree([f"env={name}"])
    section = plain(config.env)
    nano = {} if name == CUSTOM else plain(config.nano)
    return {"env": section, "nano": nano}


def _of_section(name: str, section: Mapping[str, Any]) -> Environment:
    budgets = section.get("nano", {})
    tokens = {
        "max_prompt_tokens": budgets.get("prompt_tokens"),
        "max_response_tokens": budgets.get("response_tokens", Limits.max_response_tokens),
    }
    horizons = section[VALIDATION]["horizons"]
    return Environment(
        name=name,
        id=section["id"],
        module=section["module"],
        kwargs=dict(section["kwargs"]),
        horizons=tuple(horizons),
        num_tasks=NUM_TASKS,
        seed=TASK_SEED,
        limits={**section["limits"], **tokens},
        limits_horizon=max([*section["train"]["horizons"], *horizons]),
    )


def _name_of(env_id: str) -> str:
    """Return the choice of conf/env with this id; the id itself if there is none."""
    for choice in choices("env"):
        section = yaml.safe_load((CONF / "env" / f"{choice}.yaml").read_text(encoding="utf-8"))["env"]
        if section["id"] == env_id:
            return choice
    return env_id
