"""Refuses what cannot work before the first engine starts."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium

from trm_agent.deadlines import EVAL_TOKENS_PER_S, check_deadlines, step_budget_s
from trm_agent.episode import chat_tokens
from trm_agent.evaluate.chats import Chat
from trm_agent.evaluate.plan import Environment
from trm_agent.models.traces import Solver
from trm_agent.names import closest
from trm_agent.tasks import make_env
from trm_envs import registered_ids

if TYPE_CHECKING:
    from trm_agent.evaluate.checkpoints import Checkpoint


def check_environment(environment: Environment) -> None:
    """Build an environment, draw a task of each horizon, and see that its sandbox runs code if it has one.

    Raises:
        ValueError: the first thing that does not work.
    """
    _check_registered(environment)
    made: Any = None
    try:
        made = make_env(environment.id, None, environment.kwargs)
        for index in range(len(environment.horizons)):
            task = environment.task(index)
            made.reset(seed=task.seed, options=dict(task.options))
        options = getattr(made.unwrapped, "options", None)
        limits = [environment.limits_at(horizon) for horizon in sorted(set(environment.horizons))]
        budgets_s = [step_budget_s(made, each) for each in limits]
    except Exception as error:
        raise ValueError(
            f"environment {environment.name} with {environment.kwargs}, horizons {list(environment.horizons)}: "
            f"{error}; change it by --set NAME=VALUE or --horizons"
        ) from error
    finally:
        if made is not None:
            made.close()
    for each, budget_s in zip(limits, budgets_s, strict=True):
        check_deadlines(each, budget_s, EVAL_TOKENS_PER_S, prefix="limits.")
    from trm_agent.preflight import check_sandbox

    check_sandbox(options)


def smallest_context(checkpoints: Sequence[Checkpoint]) -> int | None:
    """The tokens that every checkpoint can hold; None if none of them says how many it can.

    Merges shards and makes the nano model, where that was not done before.

    Raises:
        ValueError: merging fails.
    """
    from trm_agent.evaluate.checkpoints import model_folder
    from trm_agent.evaluate.endpoint import served_context
    from trm_agent.evaluate.model_files import max_positions

    found = [
        served_context(each.url, each.model) if each.url and each.model else max_positions(model_folder(each))
        for each in checkpoints
    ]
    return min((tokens for tokens in found if tokens is not None), default=None)


def check_budgets(environment: Environment, tokenizers: Sequence[Any], chats: Sequence[Chat] = ()) -> None:
    """Check that at the longest horizon the prompt fits, and the scripted solver's episode if there is a solver.

    Args:
        environment: one that passed `check_environment`.
        tokenizers: of the checkpoints; equal ones that are used alike count once.
        chats: of the same checkpoints; () for the default of each.

    Raises:
        ValueError: a limit below what the task takes, by which every episode would fail; or a chat template that
            cannot be used.
    """
    horizon = max(environment.horizons)
    limits = environment.limits_at(horizon)
    pairs = zip(tokenizers, chats or [Chat()] * len(tokenizers), strict=True)
    different = {(_said(tokenizer), str(chat)): (tokenizer, chat) for tokenizer, chat in pairs}
    for tokenizer, chat in different.values():
        prompt, response, turns = measure(environment, horizon, tokenizer, chat)
        for name, needed, what in (
            ("max_prompt_tokens", prompt, "the prompt takes {} tokens"),
            ("max_response_tokens", response, "the shortest solution takes {} tokens"),
            ("max_turns", turns, "the shortest solution takes {} turns"),
        ):
            limit = getattr(limits, name)
            if limit is not None and needed > limit:
                raise ValueError(
                    f"{environment.name} at horizon {horizon}: {what.format(needed)} and limits.{name}={limit}; lower "
                    f"the horizon, or --set limits.{name}=N (the model holds {environment.context or 'unknown'} tokens)"
                )


def measure(environment: Environment, horizon: int, tokenizer: Any, talk: Chat | None = None) -> tuple[int, int, int]:
    """Tokens of the prompt and of the response, and turns, of the scripted solver's episode.

    Response and turns are 0 without a solver that plays the task.
    """
    task = environment.task(environment.horizons.index(horizon))
    talk = talk or Chat()
    chat, kwargs = chat_tokens(tokenizer, talk.settings), talk.kwargs(environment.kwargs)
    made = make_env(environment.id, environment.module, kwargs)
    try:
        told, _ = made.reset(seed=task.seed, options=dict(task.options))
        prompt = chat.prompt(made.get_wrapper_attr("system_prompt"), told, made.get_wrapper_attr("tool_schemas"))
    finally:
        made.close()
    try:
        solver = Solver(environment.id, environment.split, environment.module, kwargs)
        messages = solver.solve(task.seed, horizon).messages
    except Exception:  # there is none, or it does not play this task
        return len(prompt), 0, 0
    turns = [each["content"] for each in messages if each["role"] == "assistant"]
    told_after = messages[messages.index({"role": "assistant", "content": turns[0]}) :]
    answers = [each for each in told_after if each["role"] != "assistant"]
    response = sum(len(tokenizer.encode(chat.as_turn(text), add_special_tokens=False)) + 1 for text in turns)
    response += sum(len(chat.observation(each["role"], each["content"], model_turn_finished=True)) for each in answers)
    return len(prompt), response, len(turns)


def _check_registered(environment: Environment) -> None:
    if environment.module:
        try:
            importlib.import_module(environment.module)
        except ImportError as error:
            raise ValueError(
                f"--env {environment.module}:{environment.id}: {environment.module} cannot be imported ({error}); "
                "install it, or run the command in the folder where it lies"
            ) from error
    if environment.id in gymnasium.registry:
        return
    mine = [
        name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith(f"{environment.module}")
    ]
    raise ValueError(
        f"--env {environment.name}: not registered; {closest(environment.id, [*registered_ids(), *mine])}; for an "
        "environment of your own give MODULE:ID, the module being the one that registers it"
    )


def _said(tokenizer: Any) -> str:
    return f"{tokenizer.backend_tokenizer.to_str()}{tokenizer.chat_template}"
