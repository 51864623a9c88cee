"""Turn a user's request into a plan: defaults, budgets, and all faults that arguments and files show.

Configuration and files are read here. No environment is made, no task drawn and no model touched: see `checks` and
`prepare` for these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trm_agent.evaluate.chats import chat_of
from trm_agent.evaluate.checkpoints.source import START, Checkpoint, parse_checkpoint
from trm_agent.evaluate.engines.sampling import Sampling
from trm_agent.evaluate.environments import (
    Counts,
    changed,
    changes,
    counted,
    has_rows,
    load_run_config,
    named,
    nano_settings,
    of_run,
    with_large_budgets,
)
from trm_agent.evaluate.plan import Environment, Plan
from trm_agent.evaluate.suites import Suite, load_suite
from trm_agent.models.nano_spec import NanoSpec
from trm_agent.runs.folder import CHECKPOINTS, CONFIG_FILE
from trm_fields import COUNT, LEAST_0, refuse

NANO = "nano"
SAMPLES = 5
# raised on a configuration that has something else where a training has a section, a list or a number
DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError)
SANDBOX, UNSAFE = "sandbox", "unsafe"
# values of vLLM's `top_k` that keep the whole vocabulary
WHOLE = (-1, 0)


@dataclass(frozen=True)
class Request:
    """The arguments of `trm eval` that decide results; None for those that the user left out."""

    checkpoints: tuple[str, ...]
    suite: str | None = None
    envs: tuple[str, ...] = ()
    validation: str | None = None
    """A run folder, or "" for the first checkpoint's run."""
    rows: str | None = None
    horizons: tuple[int, ...] = ()
    tasks: int | None = None
    limit: int | None = None
    samples: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    task_seed: int | None = None
    tokenizer: str | None = None
    roles: tuple[str, ...] | None = None
    template_kwargs: dict[str, Any] | None = None
    settings: tuple[str, ...] = ()
    """FIELD=VALUE texts."""

    @property
    def counts(self) -> Counts:
        """Return the requested tasks."""
        return Counts(self.horizons, self.tasks, self.limit, every_row=self.suite is not None)


@dataclass(frozen=True)
class _Tasks:
    """Environments before the user's changes."""

    name: str
    """Name of the results' folder."""
    environments: tuple[Environment, ...]
    suite: Suite | None = None
    run: Mapping[str, Any] | None = None
    """Configuration of the run whose validation is played."""


def build_plan(request: Request) -> Plan:
    """Read a request, refusing faults that its texts and the files it names show.

    Raises:
        ValueError: something does not exist, or does not fit.
    """
    _check_counts(request)
    checkpoints = [parse_checkpoint(text, tokenizer=request.tokenizer) for text in request.checkpoints]
    runs = [_run_config(each) for each in checkpoints]
    try:
        tasks = _tasks(request, checkpoints, runs)
        return Plan(
            _with_nano(checkpoints, tasks),
            (),
            _environments(request, tasks),
            _samples(request, tasks),
            _sampling(request, tasks),
            tasks.suite.config() if tasks.suite else None,
            tuple(chat_of(run, request.roles, request.template_kwargs) for run in runs),
            tasks.name,
        )
    except DAMAGED as error:
        if all(run is None for run in runs) and not request.validation:
            raise
        raise ValueError(
            f"the config.yaml of {request.validation or request.checkpoints[0]} is not one that this version can read "
            f"({error!r}); give a run folder as a training wrote it"
        ) from error


def _run_config(checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    run = run_of(checkpoint)
    return None if run is None else load_run_config(run)


def run_of(checkpoint: Checkpoint) -> Path | None:
    """Return the folder of the training run that a checkpoint belongs to; None if it stands alone."""
    if checkpoint.source.startswith(START):
        folder = Path(checkpoint.source.removeprefix(START)).expanduser()
    elif checkpoint.kind == "fsdp" and checkpoint.path is not None:
        step = checkpoint.path.resolve().parent
        folder = step.parent.parent if step.parent.name == CHECKPOINTS else step.parent
    else:
        return None
    return folder if (folder / CONFIG_FILE).exists() else None


def _tasks(request: Request, checkpoints: Sequence[Checkpoint], runs: Sequence[Mapping[str, Any] | None]) -> _Tasks:
    if request.suite is not None:
        suite = load_suite(request.suite, request.rows)
        return _Tasks(suite.name, suite.environments, suite)
    if request.envs:
        environments = [named(name) for name in request.envs]
        if not all(map(_is_nano, checkpoints, runs)):
            environments = [with_large_budgets(each) for each in environments]
        if request.task_seed is not None:
            environments = [replace(each, seed=request.task_seed) for each in environments]
        name = "-".join(each.name.rpartition("/")[2] for each in environments)
        return _Tasks(name, tuple(environments))
    run = Path(request.validation).expanduser() if request.validation else run_of(checkpoints[0])
    if run is None:
        raise ValueError(
            f"{request.checkpoints[0]} belongs to no training run whose environment could be taken: say what to play "
            "with --suite NAME, --env NAME or --validation RUN (trm eval --list-suites shows the suites)"
        )
    config = load_run_config(run)
    environment = of_run(config)
    if request.validation is not None:
        return _Tasks(f"validation-{environment.name}", (environment,), run=config)
    own = named(environment.name) if "/" not in environment.name else environment
    seed = own.seed if request.task_seed is None else request.task_seed
    environment = replace(environment, num_tasks=own.num_tasks, seed=seed, split="held_out")
    return _Tasks(environment.name.rpartition("/")[2], (environment,), run=config)


def _check_counts(request: Request) -> None:
    if not request.checkpoints:
        raise ValueError("CHECKPOINT: give at least one, e.g. trm eval runs/math_nano-seed0-001 --suite nano_long")
    chosen = [
        flag
        for flag, value in (("--suite", request.suite), ("--env", request.envs), ("--validation", request.validation))
        if value not in (None, ())
    ]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)}: each says what to play; give one of them")
    if request.rows is not None and request.suite is None:
        raise ValueError("--rows: belongs to a suite of published problems; give e.g. --suite aime25 --rows FILE")
    for flag, given in (("--horizons", request.horizons), ("--task-seed", request.task_seed)):
        if given not in (None, ()) and chosen and chosen[0] != "--env":
            raise ValueError(f"{flag} with {chosen[0]}: its tasks are fixed; leave {flag} out, or use --env")
    for flag, count in (("--tasks", request.tasks), ("--limit", request.limit), ("--samples", request.samples)):
        if count is not None:
            COUNT.check(flag, count, f"give e.g. {flag} 10")
    if request.task_seed is not None:
        LEAST_0.check("--task-seed", request.task_seed, "give e.g. --task-seed 1")


def _with_nano(checkpoints: Sequence[Checkpoint], tasks: _Tasks) -> tuple[Checkpoint, ...]:
    """Return the checkpoints, the nano model among them as the one half trained on the first environment."""
    if not any(each.source == NANO for each in checkpoints):
        return tuple(checkpoints)
    spec = NanoSpec(**_nano_settings(tasks))
    return tuple(replace(each, nano=spec) if each.source == NANO else each for each in checkpoints)


def _environments(request: Request, tasks: _Tasks) -> tuple[Environment, ...]:
    """Return the environments with the user's changes, horizons and numbers of tasks."""
    wanted = changes(request.settings, [each.name for each in tasks.environments])
    environments = [changed(each, wanted) for each in tasks.environments]
    is_stored = tasks.run is not None and not any(change.field == SANDBOX for change in wanted)
    if is_stored and any(each.kwargs.get(SANDBOX) == UNSAFE for each in environments):
        # whoever wrote the folder chose the model as well
        raise ValueError(
            f"{SANDBOX}={UNSAFE} in the run's config.yaml: its model's programs would run with your rights; say so "
            f"yourself if the run is yours: --set {SANDBOX}={UNSAFE}, or have them isolated: --set {SANDBOX}=local"
        )
    if request.horizons:
        environments = [replace(each, horizons=request.horizons) for each in environments]
    # the number of problems of a file is known only when it is read
    return tuple(each if has_rows(each) else counted(each, request.counts) for each in environments)


def _samples(request: Request, tasks: _Tasks) -> int:
    if request.samples is not None:
        return request.samples
    if request.validation is not None:
        return int(_validation_sampling(tasks)["n"])
    # greedy samples would all be the same
    return 1 if request.temperature == 0 else SAMPLES


def _sampling(request: Request, tasks: _Tasks) -> Sampling:
    temperature, top_p, top_k = Sampling.temperature, Sampling.top_p, WHOLE[0]
    if request.validation is not None:
        settings = _validation_sampling(tasks)
        temperature, top_p = settings["temperature"] if settings["do_sample"] else 0.0, settings["top_p"]
        top_k = settings.get("top_k", WHOLE[0])
    sampling = Sampling(
        float(temperature if request.temperature is None else request.temperature),
        float(top_p if request.top_p is None else request.top_p),
        request.seed,
    )
    if sampling.temperature > 0 and top_k not in WHOLE:
        refuse(
            "actor_rollout_ref.rollout.val_kwargs.top_k",
            top_k,
            "-1 or 0",
            "give --env or --suite in place of --validation, with --top-p where it suits",
            because="in the run's config.yaml, by which an evaluation does not sample",
        )
    return sampling


def _validation_sampling(tasks: _Tasks) -> Mapping[str, Any]:
    assert tasks.run is not None, "a validation is a run's"
    return tasks.run["actor_rollout_ref"]["rollout"]["val_kwargs"]


def _nano_settings(tasks: _Tasks) -> dict[str, Any]:
    if tasks.run is not None and "nano" in tasks.run:
        known = {field.name for field in dataclasses.fields(NanoSpec)}
        return {name: value for name, value in tasks.run["nano"].items() if name in known}
    return nano_settings(tasks.environments[0].name)


def _is_nano(checkpoint: Checkpoint, run: Mapping[str, Any] | None) -> bool:
    """Return True for a checkpoint of the nano model, which answers in few tokens."""
    if checkpoint.kind == NANO or (checkpoint.path is not None and (checkpoint.path / "nano.json").exists()):
        return True
    return run is not None and run["actor_rollout_ref"]["model"]["path"] == NANO
