"""Refuse plans that cannot work, and complete plans with facts that only the checks find out.

`checked` needs no model: it draws tasks and tries the sandbox. `fitted` needs the tokenizers and the models' settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trm_agent.episode import chat_tokens
from trm_agent.evaluate.chats import Chat, with_protocols
from trm_agent.evaluate.checkpoints.model_files import max_positions
from trm_agent.evaluate.checkpoints.served import served_context
from trm_agent.evaluate.checkpoints.source import Checkpoint, fingerprint, model_files_folder, tokenizer_folder
from trm_agent.evaluate.engines.opening import load_tokenizer
from trm_agent.evaluate.environments import Counts
from trm_agent.evaluate.plan import Environment, Plan
from trm_agent.evaluate.rows import tasks_hash, with_problems
from trm_agent.evaluate.suites import suite_hash
from trm_agent.runs.deadlines import EVAL_TOKENS_PER_S
from trm_agent.runs.declared_packages import with_packages
from trm_agent.runs.environment_check import Trial, Wording
from trm_agent.runs.environment_check import check_environment as check_trial
from trm_agent.runs.solver_tokens import SolverTokens, measure_solver, needed_limits, told_needs

_ALL = Counts()


def checked(plan: Plan, counts: Counts = _ALL) -> Plan:
    """Return the plan with the hashes of its tasks and weights, its environments checked one by one.

    Args:
        plan: as `build_plan` makes it.
        counts: the tasks that the user asks for; a file may have fewer.

    Raises:
        ValueError: the first thing that does not work.
    """
    suite = plan.suite and {**plan.suite, "hash": suite_hash(plan.suite["name"])}
    environments = tuple(_settled(each, counts) for each in plan.environments)
    fingerprints = tuple(fingerprint(each) for each in plan.checkpoints)
    return replace(plan, suite=suite, environments=environments, fingerprints=fingerprints)


def fitted(plan: Plan) -> Plan:
    """Return the plan within the contexts of its models, with the protocols that their chat templates need.

    Args:
        plan: a `checked` one, whose checkpoints have their tokenizers.

    Raises:
        ValueError: the solver's episode does not fit, no protocol reads a checkpoint's calls, or a chat template cannot
            be used.
    """
    context = smallest_context(plan.checkpoints)
    plan = replace(plan, environments=tuple(replace(each, context=context) for each in plan.environments))
    folders = [tokenizer_folder(each) for each in plan.checkpoints]
    loaded = {folder: load_tokenizer(folder) for folder in dict.fromkeys(folders) if folder is not None}
    tokenizers = [loaded[folder] for folder in folders if folder is not None]
    labels = [each.label for each in plan.checkpoints]
    chats = with_protocols(plan.chats, labels, tokenizers, [each.kwargs for each in plan.environments])
    for environment in plan.environments:
        check_budgets(environment, tokenizers, chats)
    return replace(plan, chats=chats)


def check_environment(environment: Environment) -> None:
    """Try an environment, as training does, with a task of each horizon.

    Raises:
        ValueError: the first thing that does not work.
    """
    environment_id, kwargs = environment.id, environment.kwargs
    wording = Wording(
        id=f"--env {environment.name}",
        module=f"--env {environment.module}:{environment_id}",
        own="for an environment of your own give MODULE:ID, the module being the one that registers it",
        settings=f"environment {environment.name} with {kwargs}, horizons {list(environment.horizons)}",
        remedy="; change it by --set NAME=VALUE or --horizons",
        sandbox="--set sandbox",
        limits="limits.",
    )
    tasks = [environment.task(index) for index in range(len(environment.horizons))]
    limits = [environment.limits_at(horizon) for horizon in sorted(set(environment.horizons))]
    check_trial(Trial(environment_id, environment.module, kwargs, tasks, limits, EVAL_TOKENS_PER_S), wording)


def smallest_context(checkpoints: Sequence[Checkpoint]) -> int | None:
    """Return the tokens that every checkpoint can hold; None if no checkpoint states its limit."""
    found = [_context(each) for each in checkpoints]
    return min((tokens for tokens in found if tokens is not None), default=None)


def check_budgets(environment: Environment, tokenizers: Sequence[Any], chats: Sequence[Chat] = ()) -> None:
    """Check that the prompt fits at the longest horizon, and the scripted solver's episode if there is a solver.

    Args:
        environment: one that passed `check_environment`.
        tokenizers: of the checkpoints; equal ones that are used alike count once.
        chats: of the same checkpoints; () for the default of each.

    Raises:
        ValueError: a limit is below the needs of the task, so that every episode would fail, or a chat template cannot
            be used.
    """
    horizon = max(environment.horizons)
    limits = environment.limits_at(horizon)
    pairs = zip(tokenizers, chats or [Chat()] * len(tokenizers), strict=True)
    different = {(_said(tokenizer), str(chat)): (tokenizer, chat) for tokenizer, chat in pairs}
    for tokenizer, chat in different.values():
        solved = measure(environment, horizon, tokenizer, chat)
        if needs := needed_limits(solved, limits):
            settings = " ".join(f"limits.{name}={needed}" for name, needed in needs.items())
            raise ValueError(
                f"{environment.name} at horizon {horizon}: the scripted solver itself cannot finish: it takes "
                f"{told_needs(solved)}; lower the horizon, or for horizon {horizon} --set {settings} (the model holds "
                f"{environment.context or 'unknown'} tokens)"
            )


def measure(environment: Environment, horizon: int, tokenizer: Any, talk: Chat | None = None) -> SolverTokens:
    """Measure the scripted solver's episode at a horizon, in the tokens of a checkpoint with these chat settings."""
    task = environment.task(environment.horizons.index(horizon))
    talk = talk or Chat()
    chat, kwargs = chat_tokens(tokenizer, talk.settings), talk.kwargs(environment.kwargs)
    return measure_solver(task, environment.module, kwargs, tokenizer, chat, environment.limits_at(horizon))


def _settled(environment: Environment, counts: Counts) -> Environment:
    environment = with_problems(environment, counts)
    check_environment(environment)
    kwargs = with_packages(environment.id, environment.module, environment.kwargs)
    environment = replace(environment, kwargs=kwargs)
    return replace(environment, tasks_hash=tasks_hash(environment))


def _context(checkpoint: Checkpoint) -> int | None:
    if checkpoint.url and checkpoint.model:
        return served_context(checkpoint.url, checkpoint.model)
    folder = model_files_folder(checkpoint)
    assert folder is not None, f"{checkpoint.label} is not prepared"
    return max_positions(folder)


def _said(tokenizer: Any) -> str:
    return f"{tokenizer.backend_tokenizer.to_str()}{tokenizer.chat_template}"
