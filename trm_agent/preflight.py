"""Refuses what cannot work before Ray starts. Each message names the field, the value, what is allowed, what to do."""

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gymnasium
from omegaconf import DictConfig, OmegaConf

from trm_agent.compose import plain
from trm_agent.config import DUMP_PATH, FIELD_PATH, DumpConfig, TrmConfig
from trm_agent.names import closest

NANO = "nano"
_ACTOR = "actor_rollout_ref.actor"
_ROLLOUT = "actor_rollout_ref.rollout"


def check(config: DictConfig) -> None:
    """Check a composed configuration; needs neither verl nor the model.

    Raises:
        ValueError: the first thing that cannot work.
    """
    for rule in (_environment, _model_path, _batches, _lengths, _sampling, _trust_region, _schedule):
        rule(config)


def check_policy_loss(config: DictConfig, known: Iterable[str]) -> None:
    """Check the loss's name against verl's registry.

    Raises:
        ValueError: verl has no such policy loss.
    """
    field, known = f"{_ACTOR}.policy_loss.loss_mode", sorted(known)
    name = OmegaConf.select(config, field)
    if name not in known:
        raise ValueError(f"{field}={name!r}: verl knows no such policy loss; {closest(name, known)}")


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
                raise ValueError(
                    f"env.{stream}.horizons: horizon {horizon} cannot fit: the shortest solution takes {needed} tokens "
                    f"and {field}={budget}; lower the horizon or raise {field} (and {_ROLLOUT}.max_model_len)"
                )


def check_top_k(config: DictConfig, vocab_size: int) -> None:
    """Check that the rollout can record as many log-probs as the estimator asks for.

    Raises:
        ValueError: `top_k` is larger than the model's vocabulary.
    """
    loss = config.actor_rollout_ref.actor.policy_loss
    if loss.loss_mode == "trm" and loss.trm.estimator == "topk" and loss.trm.top_k > vocab_size:
        raise ValueError(
            f"{FIELD_PATH}.top_k={loss.trm.top_k}: the model's vocabulary has {vocab_size} tokens; lower it, or set "
            "estimator=exact for the whole distribution"
        )


def _environment(config: DictConfig) -> None:
    import trm_envs  # noqa: F401  (registers the suite)

    env = config.env
    if env.module:
        try:
            importlib.import_module(env.module)
        except ImportError as error:
            raise ValueError(
                f"env.module={env.module!r}: cannot be imported ({error}); install it or fix the name"
            ) from (error)
    if not env.id:
        raise ValueError("env.id: missing; give the Gymnasium id of your environment, e.g. env.id=mine/Task-v0")
    if env.id not in gymnasium.registry:
        bundled = ("gymnasium.", "ale_py.", "shimmy.")
        known = [
            name
            for name, spec in gymnasium.registry.items()
            if isinstance(spec.entry_point, str | type) and not str(spec.entry_point).startswith(bundled)
        ]
        raise ValueError(
            f"env.id={env.id!r}: not registered; {closest(env.id, known)}; "
            "for an environment of your own set env.module to the module that registers it"
        )
    for stream in ("train", "val"):
        horizons = list(env[stream].horizons)
        if not horizons or any(not isinstance(horizon, int) or horizon < 1 for horizon in horizons):
            raise ValueError(f"env.{stream}.horizons={horizons}: give a list of positive integers")
        if env[stream].num_tasks < len(horizons):
            raise ValueError(
                f"env.{stream}.num_tasks={env[stream].num_tasks}: fewer than the {len(horizons)} horizons; raise it"
            )
        if env.limits.max_turns <= max(horizons):
            raise ValueError(
                f"env.limits.max_turns={env.limits.max_turns}: horizon {max(horizons)} of env.{stream}.horizons takes "
                f"at least {max(horizons) + 1} turns; raise env.limits.max_turns or lower the horizon"
            )
    if env.train.split == env.val.split or "all" in (env.train.split, env.val.split):
        raise ValueError(
            f"env.val.split={env.val.split!r} with env.train.split={env.train.split!r}: the two share tasks; "
            "set env.train.split=train and env.val.split=held_out, so that validation tasks are never trained on"
        )
    _playable(env)


def _playable(env: DictConfig) -> None:
    """Draw one task, and see that the sandbox runs code if the environment has one."""
    made: Any = None
    try:
        made = gymnasium.make(env.id, **plain(env.kwargs))
        made.reset(seed=0, options={"horizon": env.train.horizons[0], "split": env.train.split})
        options = getattr(made.unwrapped, "options", None)
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"env.kwargs={plain(env.kwargs)} of {env.id}: {error}") from error
    finally:
        if made is not None:
            made.close()
    check_sandbox(options)


def check_sandbox(options: Any) -> None:
    """See that an environment's sandbox, if its options say that it has one, runs code and has its packages.

    Raises:
        ValueError: if it does not.
    """
    from trm_envs.python_tool import SandboxOptions
    from trm_envs.sandbox.interface import SandboxUnavailable

    if not isinstance(options, SandboxOptions):
        return
    try:
        result = options.open_sandbox().run("print(6 * 7)")
    except SandboxUnavailable as error:
        raise ValueError(f"env.kwargs.sandbox={options.sandbox}: {error}") from error
    if result.stdout.strip() != "42":
        told = result.message or result.stderr or result.status.value
        raise ValueError(f"env.kwargs.sandbox={options.sandbox}: does not run code: {told}; see docs/sandbox.md")


def _model_path(config: DictConfig) -> None:
    field = "actor_rollout_ref.model.path"
    path = str(OmegaConf.select(config, field))
    is_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    if path == NANO or is_hub_id or Path(path).expanduser().is_dir():
        return
    raise ValueError(
        f"{field}={path!r}: no such folder; give a folder with config.json, a hub id (organisation/name), or "
        f"{NANO!r} for the model of the embedded default"
    )


def _batches(config: DictConfig) -> None:
    batch, group = config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    mini = config.actor_rollout_ref.actor.ppo_mini_batch_size
    devices = config.trainer.n_gpus_per_node * config.trainer.nnodes
    for field, value in (
        ("data.train_batch_size", batch),
        (f"{_ROLLOUT}.n", group),
        (f"{_ACTOR}.ppo_mini_batch_size", mini),
        ("trainer.n_gpus_per_node * trainer.nnodes", devices),
    ):
        if value < 1:
            raise ValueError(f"{field}={value}: must be at least 1")
    if batch % mini:
        raise ValueError(
            f"{_ACTOR}.ppo_mini_batch_size={mini}: does not divide data.train_batch_size={batch}; "
            f"both count prompts: choose a divisor of {batch}"
        )
    if (mini * group) % devices:
        raise ValueError(
            f"{_ACTOR}.ppo_mini_batch_size={mini} times {_ROLLOUT}.n={group} sequences cannot be divided over "
            f"{devices} devices; change one so that the product is a multiple of {devices}"
        )
    actor, per_device = config.actor_rollout_ref.actor, mini * group // devices
    micro = actor.ppo_micro_batch_size_per_gpu
    if not actor.use_dynamic_bsz and micro is not None and per_device % micro:
        raise ValueError(
            f"{_ACTOR}.ppo_micro_batch_size_per_gpu={micro}: does not divide the {per_device} sequences that a device "
            f"gets of a mini-batch ({mini} prompts times {group} episodes over {devices} devices); "
            f"choose a divisor of {per_device}, or {_ACTOR}.use_dynamic_bsz=true"
        )
    if config.algorithm.adv_estimator == "grpo" and group < 2:
        raise ValueError(f"{_ROLLOUT}.n={group}: GRPO's baseline needs at least 2 episodes a task; raise it")


def _lengths(config: DictConfig) -> None:
    prompt, response = config.data.max_prompt_length, config.data.max_response_length
    model = config.actor_rollout_ref.rollout.max_model_len
    if model is not None and prompt + response > model:
        raise ValueError(
            f"{_ROLLOUT}.max_model_len={model}: less than data.max_prompt_length={prompt} plus "
            f"data.max_response_length={response}; raise it to at least {prompt + response}"
        )


def _sampling(config: DictConfig) -> None:
    rollout = config.actor_rollout_ref.rollout
    if rollout.top_p < 1:
        raise ValueError(
            f"{_ROLLOUT}.top_p={rollout.top_p}: below 1 the engine reports log-probs of a cut and renormalised "
            "distribution, and the ratio to the trainer's is wrong; set it to 1.0"
        )
    if rollout.top_k not in (-1, 0):
        raise ValueError(f"{_ROLLOUT}.top_k={rollout.top_k}: cuts the sampled distribution like top_p; set it to -1")
    if rollout.temperature <= 0:
        raise ValueError(f"{_ROLLOUT}.temperature={rollout.temperature}: training samples; give a positive temperature")


def _trust_region(config: DictConfig) -> None:
    loss = config.actor_rollout_ref.actor.policy_loss
    if loss.loss_mode != "trm":
        return
    if "trm" not in loss:
        raise ValueError(f"{_ACTOR}.policy_loss.loss_mode='trm': the thresholds are missing; choose policy_loss=trm")
    trm = TrmConfig.from_mapping(plain(loss.trm))
    if not config.actor_rollout_ref.rollout.calculate_log_probs:
        raise ValueError(
            f"{_ROLLOUT}.calculate_log_probs=false: the trust region is measured from the rollout's log-probs; "
            "set it to true"
        )
    if config.algorithm.rollout_correction.bypass_mode == trm.decoupled:
        raise ValueError(
            f"algorithm.rollout_correction.bypass_mode={str(not trm.decoupled).lower()} is needed with "
            f"{FIELD_PATH}.decoupled={str(trm.decoupled).lower()}: with bypass_mode=true verl's old_log_probs are the "
            "rollout's own, without it the trainer's at the start of the step; change one of them (policy_loss=trm and "
            "policy_loss=trm_decoupled set both)"
        )
    if trm.estimator != "sampled":
        _distributions(config, trm.estimator)
    dump = DumpConfig.from_mapping(plain(loss.get("dump", {})))
    if dump.distributions and trm.estimator != "exact":
        raise ValueError(
            f"{DUMP_PATH}.distributions=true with {FIELD_PATH}.estimator={trm.estimator!r}: the rollout's whole "
            "distributions are recorded for estimator=exact alone; set it, or distributions=false"
        )


def _distributions(config: DictConfig, estimator: str) -> None:
    """What must hold where the rollout's distributions travel to the actor's logits."""
    needs: tuple[tuple[str, tuple[Any, ...]], ...] = (
        (f"{_ROLLOUT}.name", ("vllm",)),
        (f"{_ROLLOUT}.agent.default_agent_loop", ("trm_env",)),
        (f"{_ACTOR}.strategy", ("fsdp", "fsdp2")),
        ("actor_rollout_ref.model.use_fused_kernels", (False, None)),
        (f"{_ACTOR}.fsdp_config.ulysses_sequence_parallel_size", (1, None)),
        (f"{_ACTOR}.ulysses_sequence_parallel_size", (1, None)),
    )
    for field, allowed in needs:
        value = OmegaConf.select(config, field)
        if value not in allowed:
            raise ValueError(
                f"{field}={value!r} with {FIELD_PATH}.estimator={estimator!r}: the rollout cannot feed this estimator; "
                f"allowed: {', '.join(str(choice) for choice in allowed if choice is not None)}; "
                "change it, or set estimator=sampled"
            )


def _schedule(config: DictConfig) -> None:
    steps = config.trainer.total_training_steps
    if steps is None or steps < 1:
        raise ValueError(f"trainer.total_training_steps={steps}: give the number of steps, at least 1")
    if steps * config.data.train_batch_size > config.env.train.num_tasks:
        raise ValueError(
            f"env.train.num_tasks={config.env.train.num_tasks}: {steps} steps of {config.data.train_batch_size} tasks "
            f"need {steps * config.data.train_batch_size}; raise it or lower trainer.total_training_steps"
        )
