"""Refuse a configuration that does not suit its model: log-probs, context, token budgets."""

from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_agent.episode import ChatTokens, Limits
from trm_agent.models.nano_spec import CONTEXT as NANO_CONTEXT
from trm_agent.models.nano_spec import NanoSpec
from trm_agent.runs.attention import FIELD as ATTENTION
from trm_agent.runs.attention import check_scores
from trm_agent.runs.chat import run_chat_tokens
from trm_agent.runs.compose import plain
from trm_agent.runs.deadlines import limits_of
from trm_agent.runs.elsewhere import is_elsewhere
from trm_agent.runs.model_facts import ModelFacts
from trm_agent.runs.model_traps import check_heads, told_vocabulary
from trm_agent.runs.planning.fit import is_planned, shape_of_run
from trm_agent.runs.planning.shapes import from_config
from trm_agent.runs.preflight_gpu import LONGER, check_plan
from trm_agent.runs.recorded_bytes import told_records
from trm_agent.runs.solver_tokens import SolverTokens, counts, measure_solver, needed_limits, told_needs
from trm_agent.runs.ulysses import check_shared_heads, sizes
from trm_agent.tasks import Task
from trm_agent.trust_region.engine_option import effective_option
from trm_agent.trust_region.recording import ALL, REPLAYED, num_recorded
from trm_agent.trust_region.settings import DUMP_PATH, FIELD_PATH
from trm_fields import refuse

_ROLLOUT = "actor_rollout_ref.rollout"
MEASURED_TASKS = 10
# of a value of Arrow's type `binary`, whose offsets are 32 bits
MOST_BYTES = 2**31 - 1


def check_model(config: DictConfig, model: ModelFacts) -> None:
    """Check a configuration that passed `preflight.check` against its model.

    Raises:
        ValueError: the first fault.
    """
    check_heads(config, str(config.actor_rollout_ref.model.path), model.shape)
    for field, size in sizes(config).items():
        check_shared_heads(model.shape, size, field)
    check_scores(model.shape, OmegaConf.select(config, ATTENTION))
    check_top_k(config, model.vocab_size)
    check_told_log_probs(config, model.vocab_size)
    for line in (told_vocabulary(model.vocab_size, len(model.tokenizer)), told_records(config, model.vocab_size)):
        if line:
            print(line, flush=True)
    check_context(config, model.max_positions)
    check_dump(config, model.vocab_size)
    check_memory(config, model)
    check_budget(config, solver_measure(config, model.tokenizer, model.chat))


def check_budget(config: DictConfig, measure: Callable[[dict[str, Any]], SolverTokens]) -> None:
    """Check that the scripted solver's own episode at the longest horizons keeps the limits.

    Without a solver only the prompt is measured: a horizon need not be a number of turns.

    Args:
        measure: task options -> size of the episode when the solver plays them.

    Raises:
        ValueError: it does not; the message has all values to set.
    """
    limits = limits_of(plain(config))
    sizes = [_size(config, stream, measure) for stream in ("train", "val")]
    needs = needed_limits(
        SolverTokens(*(max(pair) for pair in zip(*(counts(each) for each in sizes), strict=True))), limits
    )
    if not needs:
        return
    horizons = [max(config.env[stream].horizons) for stream in ("train", "val")]
    stream, horizon, solved = max(zip(("train", "val"), horizons, sizes, strict=True), key=lambda each: each[1])
    settings = " ".join(f"{field}={value}" for field, value in _settings(config, limits, needs).items())
    refuse(
        f"env.{stream}.horizons",
        horizon,
        "horizons that the limits let the solver play",
        f"for horizon {horizon} set: {settings}; or lower it",
        because=f"at which the scripted solver itself cannot finish: it takes {told_needs(solved)}",
    )


def _size(config: DictConfig, stream: str, measure: Callable[[dict[str, Any]], SolverTokens]) -> SolverTokens:
    """Return the size of the solver's episode at a stream's longest horizon."""
    horizon = max(config.env[stream].horizons)
    return measure({"horizon": horizon, "split": config.env[stream].split})


def check_nano_budget(config: DictConfig, spec: NanoSpec) -> None:
    """Check the budgets of a nano model before it is made, by its tokenizer, which takes seconds.

    Raises:
        ValueError: as `check_context` and `check_budget`.
    """
    from trm_agent.models.nano import is_made, make_tokenizer, nano_folder

    check_context(config, NANO_CONTEXT)
    if not is_made(nano_folder(spec)):
        tokenizer = make_tokenizer(spec)
        check_budget(config, solver_measure(config, tokenizer, run_chat_tokens(tokenizer, config)))


def _settings(config: DictConfig, limits: Limits, needs: Mapping[str, int]) -> dict[str, int]:
    """Return the fields to set, with the context that prompt and response need together."""
    names = {
        "max_prompt_tokens": _origin(config.data, "max_prompt_length", "env.nano.prompt_tokens", "data"),
        "max_response_tokens": _origin(config.data, "max_response_length", "env.nano.response_tokens", "data"),
    }
    settings = {names.get(name, f"env.limits.{name}"): needed for name, needed in needs.items()}
    prompt = needs.get("max_prompt_tokens", config.data.max_prompt_length)
    context = prompt + needs.get("max_response_tokens", config.data.max_response_length)
    held = config.actor_rollout_ref.rollout.max_model_len
    if held is not None and context > held:
        field = _origin(config.actor_rollout_ref.rollout, "max_model_len", "env.nano.total_tokens", _ROLLOUT)
        settings[field] = context
    return settings


def _origin(section: DictConfig, name: str, source: str, path: str) -> str:
    """Return the field that decides a value: the preset's source of it, unless the field itself is set."""
    return source if OmegaConf.is_interpolation(section, name) else f"{path}.{name}"


def check_memory(config: DictConfig, model: ModelFacts) -> None:
    """Check the plan of a run on this machine's GPUs whose model was not known before its facts were loaded.

    Raises:
        ValueError: heads that cannot be split, or a plan that does not fit.
    """
    path = str(config.actor_rollout_ref.model.path)
    if config.hardware.kind != "gpu" or is_elsewhere(config) or not is_planned(config):
        return
    if shape_of_run(config) is not None:
        return
    shape = from_config(model.shape, path)
    if shape is not None:
        check_plan(config, shape)


def check_top_k(config: DictConfig, vocab_size: int) -> None:
    """Check that the rollout can record the number of log-probs that the estimator needs.

    Raises:
        ValueError: `top_k` is larger than the model's vocabulary.
    """
    loss, rollout = config.actor_rollout_ref.actor.policy_loss, config.actor_rollout_ref.rollout
    if loss.loss_mode != "trm":
        return
    asked = {"topk": (f"{FIELD_PATH}.top_k", loss.trm.top_k), REPLAYED: (f"{_ROLLOUT}.top_k", rollout.top_k)}
    field, top_k = asked.get(loss.trm.estimator, ("", 0))
    if top_k > vocab_size:
        refuse(
            field,
            top_k,
            f"at most the {vocab_size} tokens of the model's vocabulary",
            "lower it, or set estimator=exact for the whole distribution",
        )


def check_told_log_probs(config: DictConfig, vocab_size: int) -> None:
    """Check that the engine may tell as many log-probs of a token as the estimator asks for.

    Raises:
        ValueError: vLLM's `max_logprobs` is less.
    """
    loss = config.actor_rollout_ref.actor.policy_loss
    if loss.loss_mode != "trm":
        return
    estimator = loss.trm.estimator
    num = num_recorded(estimator, loss.trm.top_k, config.actor_rollout_ref.rollout.top_k)
    # no more than there are
    asked = vocab_size if num == ALL else min(num, vocab_size)
    field, most = effective_option(config, "max_logprobs")
    if most is not None and int(most) != ALL and int(most) < asked:
        because = f"but {FIELD_PATH}.estimator={estimator!r} asks for more log-probs of each token"
        refuse(field, most, f"at least {asked}, or {ALL} for all", "leave it out", because=because)


def check_context(config: DictConfig, max_positions: int | None) -> None:
    """Check that the model's context holds the budgets, and the engine's context of vLLM.

    The engine refuses a turn beyond it, so a policy could make any episode vanish by writing a lot; and verl refuses a
    longer context of vLLM when it starts.

    Args:
        max_positions: the longest context that the model was made for; None if its configuration does not state it.

    Raises:
        ValueError: the context is shorter.
    """
    rollout, data = config.actor_rollout_ref.rollout, config.data
    prompt, response, held = data.max_prompt_length, data.max_response_length, rollout.max_model_len
    if max_positions is None or (held is not None and rollout.name != "vllm"):
        return
    made_for = "the contexts that the model was made for (max_position_embeddings of its config.json)"
    if prompt + response > max_positions:
        refuse(
            "data.max_response_length",
            response,
            f"{max_positions} tokens in all, {made_for}",
            f"lower one of the two, or {LONGER}",
            because=f"with data.max_prompt_length={prompt}",
        )
    if held is not None and held > max_positions:
        refuse(f"{_ROLLOUT}.max_model_len", held, f"at most {max_positions}, {made_for}", "lower it, or leave it out")


def check_dump(config: DictConfig, vocab_size: int) -> None:
    """Check that a dump's file can hold the whole distributions of the longest response.

    Raises:
        ValueError: they are more bytes than one of its values can have.
    """
    loss, response = config.actor_rollout_ref.actor.policy_loss, config.data.max_response_length
    if loss.loss_mode != "trm" or not (loss.dump.every and loss.dump.distributions):
        return
    most = MOST_BYTES // (4 * vocab_size)
    if response > most:
        refuse(
            f"{DUMP_PATH}.distributions",
            True,
            f"responses of at most {most} tokens, since 4 bytes for each of {vocab_size} tokens of the vocabulary fill "
            "2 GiB, which is all that a sequence can have in the file",
            f"set it to false, or lower data.max_response_length={response}",
        )


def solver_measure(config: DictConfig, tokenizer: Any, chat: ChatTokens) -> Callable[[dict[str, Any]], SolverTokens]:
    """Return the measure of the solver's episode, by task options; no response without a solver.

    A game of chance may have tasks that nobody wins: then another one is measured.
    """
    env, limits = config.env, Limits.from_mapping(plain(config.env.limits))

    def measure(options: dict[str, Any]) -> SolverTokens:
        for seed in range(MEASURED_TASKS):
            task = Task(env.id, seed, options)
            found = measure_solver(task, env.module, plain(env.kwargs), tokenizer, chat, limits)
            if not found.failure or NotImplementedError.__name__ not in found.failure:
                break
        if found.failure:
            print(f"token budgets, turns and tool calls not checked: {found.failure}", flush=True)
        return found

    return measure
