"""The check of an environment that training and evaluation share: registered, playable, in time, with a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium

from trm_agent.episode.env_runner import describe
from trm_agent.episode.limits import Limits
from trm_agent.runs.deadlines import check_deadlines, step_budget_s
from trm_agent.tasks import Task, import_module, is_ours, make_env, told_of_kind, told_of_unknown
from trm_fields import closest

_BUNDLED = ("gymnasium.", "ale_py.", "shimmy.")


@dataclass(frozen=True)
class Wording:
    """The names by which a command's user knows the settings of an environment, for refusals."""

    id: str
    """The setting of the id, with its value."""
    module: str
    """The setting of the module, with its value."""
    own: str
    """The remedy for an environment of the user's own that is not registered."""
    settings: str
    """The settings that make the environment, with their values."""
    remedy: str = ""
    """The way to change these settings, from the semicolon on."""
    sandbox: str = "env.kwargs.sandbox"
    """The setting of the sandbox."""
    limits: str = "env.limits."
    """The prefix of a limit."""
    rate: str | None = None
    """The setting of the least tokens per second; None if it is fixed."""


@dataclass(frozen=True)
class Trial:
    """An environment and the tasks and limits to try it with."""

    id: str
    """A Gymnasium id."""
    module: str | None
    """The module that registers the id."""
    kwargs: Mapping[str, Any]
    """Arguments of `gymnasium.make`."""
    tasks: Sequence[Task]
    """Tasks to draw; none of them is played."""
    limits: Sequence[Limits]
    """Limits whose deadlines must hold their budgets."""
    tokens_per_s: float
    """Tokens per second of the slowest engine that still works."""


def check_environment(trial: Trial, wording: Wording) -> None:
    """Build an environment, draw its tasks, and check that deadlines hold the budgets and that the sandbox runs code.

    Raises:
        ValueError: the first fault.
    """
    check_registered(trial.id, trial.module, wording)
    made: Any = None
    try:
        made = make_env(trial.id, trial.module, trial.kwargs)
        if not is_ours(made):
            raise ValueError(told_of_kind(type(made.unwrapped)))
        for task in trial.tasks:
            made.reset(seed=task.seed, options=dict(task.options))
        options = getattr(made.unwrapped, "options", None)
        budgets_s = [step_budget_s(made, each) for each in trial.limits]
    except Exception as error:
        told = str(error) if isinstance(error, ValueError) else " ".join(describe(error).split())
        raise ValueError(f"{wording.settings}: {told}{wording.remedy}") from error
    finally:
        if made is not None:
            made.close()
    for limits, budget_s in zip(trial.limits, budgets_s, strict=True):
        check_deadlines(limits, budget_s, trial.tokens_per_s, prefix=wording.limits, rate=wording.rate)
    _check_sandbox(options, wording.sandbox)


def check_registered(env_id: str, module: str | None, wording: Wording) -> None:
    """Import the user's module, and check that the id is registered.

    Raises:
        ValueError: the module cannot be imported, or the id is unknown; the closest one is named.
    """
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise ValueError(
                f"{wording.module}: {module} cannot be imported ({error}); install it, run the command in the folder "
                "where it lies, or fix the name"
            ) from error
    if env_id in gymnasium.registry:
        return
    if module:
        raise ValueError(f"{wording.id}: not registered: {told_of_unknown(env_id, module)}")
    known = [
        name
        for name, spec in gymnasium.registry.items()
        if isinstance(spec.entry_point, str | type) and not str(spec.entry_point).startswith(_BUNDLED)
    ]
    raise ValueError(f"{wording.id}: not registered; {closest(env_id, known)}; {wording.own}")


def _check_sandbox(options: Any, field: str) -> None:
    """Check that an environment's sandbox, if it has the option of one, runs code and has its packages."""
    from trm_envs.python_tool import SandboxOptions
    from trm_envs.sandbox.interface import SandboxUnavailable

    if not isinstance(options, SandboxOptions):
        return
    try:
        result = options.open_sandbox().run("print(6 * 7)")
    except SandboxUnavailable as error:
        raise ValueError(f"{field}={options.sandbox}: {error}") from error
    if result.stdout.strip() != "42":
        told = result.message or result.stderr or result.status.value
        raise ValueError(f"{field}={options.sandbox}: does not run code: {told}; see docs/sandbox.md")
