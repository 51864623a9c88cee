"""Rules of `trm_agent.runs.preflight` on asynchronous training, and on what verl's V1 trainers cannot serve."""

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.preflight_separate import separate, unread
from trm_agent.runs.rollout_pool import MODE, SEPARATE
from trm_agent.runs.verl_fates import verl_fields
from trm_fields import refuse

SYNC, COLOCATE = "sync", "colocate_async"
WAIT, DROP = "wait", "drop"
_WARMUP = "trainer.v1.{mode}.num_warmup_batches"
THRESHOLD = "trainer.v1.sampler.max_off_policy_threshold"
STRATEGY = "trainer.v1.sampler.max_off_policy_strategy"
_ROLLOUT = "actor_rollout_ref.rollout"
_QUEUE_SIZE = "transfer_queue.backend.SimpleStorage.total_storage_size"
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
    """Refuse settings that the mode does not read, and those that need synchrony."""
    mode = OmegaConf.select(config, MODE)
    _refuse_unread(config)
    if mode == SYNC:
        return
    if mode == SEPARATE:
        separate(config)
    _staleness(config)
    _needs_synchrony(config)


def advantages(config: DictConfig) -> None:
    """Refuse estimators of the advantage whose inputs verl's V1 trainers do not have, whatever the mode."""
    field, name = "algorithm.adv_estimator", str(config.algorithm.adv_estimator)
    if name in UNSERVED:
        because = f"which takes {UNSERVED[name]}, and verl's V1 trainers hand that to none"
        allowed = "grpo, rloo, opo, gpg, reinforce_plus_plus and their variants, or gae"
        refuse(field, name, allowed, "choose one", because=because)


def queue(config: DictConfig) -> None:
    """Refuse a queue into which the training tasks in play do not fit: one that is full raises in the middle of a run.

    verl puts a prompt into it in an asynchronous run alone.
    """
    backend = OmegaConf.select(config, "transfer_queue.backend.storage_backend")
    size = OmegaConf.select(config, _QUEUE_SIZE)
    if backend != "SimpleStorage" or size is None:
        return
    batch, ahead, each = int(config.data.train_batch_size), ahead_of_step(config), config.actor_rollout_ref.rollout.n
    has_prompts = is_asynchronous(config)
    needed = (batch + ahead) * (each + has_prompts)
    if size < needed:
        further = f" and {ahead} ahead ({warmup_of(config)})" if ahead else ""
        rows = f"a prompt and {each} episodes" if has_prompts else f"{each} episodes"
        allowed = f"at least {needed}, for training alone: {batch} tasks of a step{further}, each of {rows}"
        refuse(_QUEUE_SIZE, size, allowed, "raise it, or lower one of these")


def warmup_of(config: DictConfig) -> str:
    """Return the field of a run's mode for the batches that are ahead of their step."""
    return _WARMUP.format(mode=OmegaConf.select(config, MODE))


def ahead_of_step(config: DictConfig) -> int:
    """Return how many tasks are ahead of their step; none in a synchronous run."""
    if not is_asynchronous(config):
        return 0
    return math.floor(float(OmegaConf.select(config, warmup_of(config))) * int(config.data.train_batch_size))


def room_in_play(config: DictConfig) -> int | None:
    """Return how many tasks that are drawn in one step can be trained on within their limit of age; None for any."""
    threshold = OmegaConf.select(config, THRESHOLD)
    if not is_asynchronous(config) or threshold is None:
        return None
    return int(threshold) * int(config.data.train_batch_size)


def _refuse_unread(config: DictConfig) -> None:
    mode, colocated = OmegaConf.select(config, MODE), _WARMUP.format(mode=COLOCATE)
    fields = {SYNC: (colocated, THRESHOLD, STRATEGY), SEPARATE: (colocated,)}.get(mode, ())
    why = "every episode is of the step's own policy" if mode == SYNC else "the servers have devices of their own"
    for field in fields:
        value, default = OmegaConf.select(config, field), verl_fields()["fields"][field][1]
        if value != default:
            because = f"but with {MODE}={mode} {why}"
            refuse(field, value, str(default), f"leave it out, or set {MODE}={COLOCATE}", because=because)
    if mode != SEPARATE:
        unread(config)


def _staleness(config: DictConfig) -> None:
    """Refuse a threshold that tasks are beyond as soon as they are done, one without effect, and an empty warm-up."""
    field = warmup_of(config)
    warmup, threshold = float(OmegaConf.select(config, field)), OmegaConf.select(config, THRESHOLD)
    batch = int(config.data.train_batch_size)
    if warmup * batch < 1:
        refuse(
            field,
            OmegaConf.select(config, field),
            f"at least {1 / batch:g}, one task of data.train_batch_size={batch}",
            f"raise it, or set {MODE}={SYNC}",
            because="with which no task is ahead of its step",
        )
    least = 1 + math.ceil(warmup)
    if threshold is None and OmegaConf.select(config, STRATEGY) == DROP:
        because = f"but with {THRESHOLD}=null no task is beyond it"
        refuse(STRATEGY, DROP, WAIT, f"set it, or a threshold of {least} or more", because=because)
    if threshold is not None and threshold < least:
        refuse(
            THRESHOLD,
            threshold,
            f"null or {least} and more",
            f"raise it, or set {MODE}={SYNC}",
            because=f"but with {field}={warmup:g} the tasks of a step were drawn up to {least - 1} steps before it",
        )


def _needs_synchrony(config: DictConfig) -> None:
    rollout, because = config.actor_rollout_ref.rollout, f"with {MODE}={OmegaConf.select(config, MODE)}"
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
