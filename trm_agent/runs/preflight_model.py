"""Refuse a configuration that does not suit its model: log-probs, context, token budgets."""

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_agent.episode import ChatTokens, Limits
from trm_agent.runs.compose import plain
from trm_agent.runs.model_facts import ModelFacts
from trm_agent.runs.solver_tokens import measure_solver
from trm_agent.tasks import Task
from trm_agent.trust_region.settings import FIELD_PATH
from trm_fields import refuse

_ROLLOUT = "actor_rollout_ref.rollout"


def check_model(config: DictConfig, model: ModelFacts) -> None:
    """Check a configuration that passed `preflight.check` against its model.

    Raises:
        ValueError: the first fault.
    """
    check_top_k(config, model.vocab_size)
    if config.actor_rollout_ref.rollout.max_model_len is None:
        check_context(config, model.max_positions)
    check_budget(config, solver_measure(config, model.tokenizer, model.chat))


def check_budget(config: DictConfig, measure: Callable[[dict[str, Any]], tuple[int, int]]) -> None:
    """Check that the scripted solver's episode at the longest horizon fits the token budgets.

    Args:
        measure: task options -> tokens of (the prompt, the response) when the solver plays them.

    Raises:
        ValueError: the prompt or the response does not fit.
    """
    for stream in ("train", "val"):
        horizon = max(config.env[stream].horizons)
        prompt, response = measure({"horizon": horizon, "split": config.env[stream].split})
        for field, needed in (("data.max_prompt_length", prompt), ("data.max_response_length", response)):
            budget = OmegaConf.select(config, field)
            if needed > budget:
                refuse(
                    f"env.{stream}.horizons",
                    horizon,
                    f"horizons that fit {field}={budget}",
                    f"lower it, or raise {field} (and {_ROLLOUT}.max_model_len)",
                    because=f"which cannot fit: the shortest solution takes {needed} tokens",
                )


def check_top_k(config: DictConfig, vocab_size: int) -> None:
    """Check that the rollout can record the number of log-probs that the estimator needs.

    Raises:
        ValueError: `top_k` is larger than the model's vocabulary.
    """
    loss = config.actor_rollout_ref.actor.policy_loss
    if loss.loss_mode == "trm" and loss.trm.estimator == "topk" and loss.trm.top_k > vocab_size:
        refuse(
            f"{FIELD_PATH}.top_k",
            loss.trm.top_k,
            f"at most the {vocab_size} tokens of the model's vocabulary",
            "lower it, or set estimator=exact for the whole distribution",
        )


def check_context(config: DictConfig, max_positions: int | None) -> None:
    """Check that the model's context holds the budgets.

    The engine refuses a turn beyond it, so a policy could make any episode vanish by writing a lot.

    Args:
        max_positions: the longest context that the model was made for; None if its configuration does not state it.

    Raises:
        ValueError: the context is shorter.
    """
    prompt, response = config.data.max_prompt_length, config.data.max_response_length
    if max_positions is not None and prompt + response > max_positions:
        refuse(
            "data.max_response_length",
            response,
            f"{max_positions} tokens in all, the contexts that the model was made for (max_position_embeddings of its "
            "config.json)",
            "lower one of the two",
            because=f"with data.max_prompt_length={prompt}",
        )


def solver_measure(config: DictConfig, tokenizer: Any, chat: ChatTokens) -> Callable[[dict[str, Any]], tuple[int, int]]:
    """Return the measure of the solver's episode in tokens, by task options; no response without a solver."""
    env, limits = config.env, Limits.from_mapping(plain(config.env.limits))

    def measure(options: dict[str, Any]) -> tuple[int, int]:
        task = Task(env.id, 0, options)
        found = measure_solver(task, env.module, plain(env.kwargs), tokenizer, chat, limits)
        if found.failure:
            print(f"token budgets not checked: {found.failure}", flush=True)
        return found.prompt, found.response

    return measure
