"""Rules of `trm_agent.runs.preflight` on asynchronous training, and on what verl's V1 trainers cannot serve."""

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.verl_fates import verl_fields
from trm_fields import refuse

MODE, SYNC, COLOCATE = "trainer.v1.trainer_mode", "sync", "colocate_async"
WARMUP = "trainer.v1.colocate_async.num_warmup_batches"
THRESHOLD = "trainer.v1.sampler.max_off_policy_threshold"
STRATEGY = "trainer.v1.sampler.max_off_policy_strategy"
_ROLLOUT = "actor_rollout_ref.rollout"
# estimators that take what verl's V1 trainers hand to none
UNSERVED = {
    "gdpo": "the single rewards of an episode",
    "optimal_token_baseline": "the sum of the squared probabilities at each token",
    "remax": "the reward of a greedy episode of each task",
    "tir_optimal_token_baseline": "the sum of the squared probabilities at each token",
}


def is_asynchronous(config: DictConfig) -> bool:
    """Return True if episodes go on over updates of the weights."""
    # absent in a script of verl's own
    return OmegaConf.select(config, MODE) not in (None, SYNC)


def asynchronous(config: DictConfig) -> None:
    """Refuse modes that are not there yet, settings that the mode does not read, and those that need synchrony."""
    mode = OmegaConf.select(config, MODE)
    if mode == "separate_async":
        because = "which is not there yet: rollout servers have no devices of their own"
        refuse(MODE, mode, f"{SYNC} or {COLOCATE}", f"choose {COLOCATE} (docs/asynchronous.md)", because=because)
    if mode == SYNC:
        _refuse_unread(config)
        return
    _staleness(config)
    _needs_synchrony(config)
    _tasks(config)


def advantages(config: DictConfig) -> None:
    """Refuse estimators of the advantage whose inputs verl's V1 trainers do not have, whatever the mode."""
    field, name = "algorithm.adv_estimator", str(config.algorithm.adv_estimator)
    if name in UNSERVED:
        because = f"which takes {UNSERVED[name]}, and verl's V1 trainers hand that to none"
        allowed = "grpo, rloo, opo, gpg, reinforce_plus_plus and their variants, or gae"
        refuse(field, name, allowed, "choose one", because=because)


def _refuse_unread(config: DictConfig) -> None:
    for field in (WARMUP, THRESHOLD, STRATEGY):
        value, default = OmegaConf.select(config, field), verl_fields()["fields"][field][1]
        if value != default:
            because = f"but with {MODE}={SYNC} every episode is of the step's own policy"
            refuse(field, value, str(default), f"leave it out, or set {MODE}={COLOCATE}", because=because)


def _staleness(config: DictConfig) -> None:
    """Refuse a threshold that tasks are beyond as soon as they are done, and a warm-up without a task."""
    warmup, threshold = float(OmegaConf.select(config, WARMUP)), OmegaConf.select(config, THRESHOLD)
    batch = int(config.data.train_batch_size)
    if warmup * batch < 1:
        refuse(
            WARMUP,
            OmegaConf.select(config, WARMUP),
            f"at least {1 / batch:g}, one task of data.train_batch_size={batch}",
            f"raise it, or set {MODE}={SYNC}",
            because="with which no task is ahead of its step",
        )
    least = 1 + math.ceil(warmup)
    if threshold is not None and threshold < least:
        refuse(
            THRESHOLD,
            threshold,
            f"null or {least} and more",
            f"raise it, or set {MODE}={SYNC}",
            because=f"but with {WARMUP}={warmup:g} the tasks of a step were drawn up to {least - 1} steps before it",
        )


def _needs_synchrony(config: DictConfig) -> None:
    rollout, because = config.actor_rollout_ref.rollout, f"with {MODE}={COLOCATE}"
    needs: tuple[tuple[str, Any, tuple[Any, ...], str, str], ...] = (
        (f"{_ROLLOUT}.name", rollout.name, ("vllm",), "set it to vllm", "whose servers record no version of a token"),
        (
            f"{_ROLLOUT}.disaggregation.enabled",
            OmegaConf.select(rollout, "disaggregation.enabled"),
            (None, False),
            "set it to false",
            "in which several servers share a turn",
        ),
        (
            "data.gen_batch_size",
            config.data.get("gen_batch_size"),
            (None, 1),
            "leave it out",
            "where tasks are drawn one by one",
        ),
    )
    for field, value, allowed, remedy, why in needs:
        if value not in allowed:
            words = " or ".join("null" if each is None else str(each).lower() for each in allowed)
            refuse(field, value, words, f"{remedy}, or set {MODE}={SYNC}", because=f"{because} {why}")


def _tasks(config: DictConfig) -> None:
    """Refuse fewer tasks than the steps and those ahead of the last one need: verl would begin anew with the first."""
    steps, batch = config.trainer.total_training_steps, int(config.data.train_batch_size)
    needed = steps * batch + math.floor(float(OmegaConf.select(config, WARMUP)) * batch)
    if needed > config.env.train.num_tasks:
        refuse(
            "env.train.num_tasks",
            config.env.train.num_tasks,
            f"at least {needed}, which is {steps} steps of {batch} tasks and those ahead of the last ({WARMUP})",
            "raise it, or lower trainer.total_training_steps",
        )
