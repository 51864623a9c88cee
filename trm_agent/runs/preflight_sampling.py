"""Rules of `trm_agent.runs.preflight` on dynamic sampling, over-long episodes and the curriculum."""

from omegaconf import DictConfig

from trm_agent.runs.estimators import GROUP_ESTIMATORS
from trm_agent.runs.sampling_settings import (
    FILTER_METRICS,
    PENALTY,
    STOP,
    CurriculumConfig,
    OverlongConfig,
)
from trm_fields import OneOf, refuse

_FILTER = "algorithm.filter_groups"
_SAMPLER = "trainer.v1.sampler.sampler_kwargs"
_SHORT = f"{_SAMPLER}.short_batch"
# verl's defaults of the fields that only a filter reads
_UNREAD = {"metric": "reward", "max_num_gen_batches": 0}


def filtered_groups(config: DictConfig) -> None:
    """Refuse a filter that cannot work, and its fields without one."""
    asked, short = config.algorithm.filter_groups, config.trainer.v1.sampler.sampler_kwargs.short_batch
    if not asked.enable:
        for name, default in _UNREAD.items():
            if asked[name] != default:
                because = f"which is read with {_FILTER}.enable=true alone"
                refuse(f"{_FILTER}.{name}", asked[name], str(default), f"set {_FILTER}.enable=true", because=because)
    if short != STOP and not (asked.enable and asked.max_num_gen_batches > 0):
        because = "which is read with a limit alone"
        refuse(_SHORT, short, STOP, f"set {_FILTER}.enable=true and {_FILTER}.max_num_gen_batches", because=because)
    if not asked.enable:
        return
    OneOf(FILTER_METRICS).check(f"{_FILTER}.metric", asked.metric)
    estimator = str(config.algorithm.adv_estimator)
    if estimator not in GROUP_ESTIMATORS:
        because = f"but with algorithm.adv_estimator={estimator} a group of equal rewards is a signal too"
        refuse(f"{_FILTER}.enable", True, "false, or a group estimator such as grpo", "leave it out", because=because)
    if config.algorithm.use_kl_in_reward:
        because = f"but {_FILTER} judges the rewards before the KL term, which tells equal ones apart"
        remedy = f"set it, and actor_rollout_ref.actor.use_kl_loss=true if wanted, or {_FILTER}.enable=false"
        refuse("algorithm.use_kl_in_reward", True, "false", remedy, because=because)
    if config.data.gen_batch_size not in (None, 1):
        refuse(
            "data.gen_batch_size",
            config.data.gen_batch_size,
            "null or 1",
            "leave it out",
            because=f"but with {_FILTER} tasks are drawn one by one",
        )


def overlong(config: DictConfig) -> None:
    """Refuse a penalty without a buffer that fits, and its fields without one."""
    asked, default = config.env.overlong, OverlongConfig()
    if asked.treatment != PENALTY:
        for name in ("buffer_tokens", "penalty_factor"):
            allowed = getattr(default, name)
            if asked[name] != allowed:
                because = f"which env.overlong.treatment={asked.treatment} does not read"
                told = "null" if allowed is None else str(allowed)
                refuse(f"env.overlong.{name}", asked[name], told, "set env.overlong.treatment=penalty", because=because)
        return
    most = config.data.max_response_length
    if asked.buffer_tokens is None or asked.buffer_tokens > most:
        refuse(
            "env.overlong.buffer_tokens",
            asked.buffer_tokens,
            f"from 1 to data.max_response_length={most} with env.overlong.treatment=penalty",
            f"set it, such as {max(1, most // 5)}",
        )


def curriculum(config: DictConfig) -> None:
    """Refuse a curriculum that has nothing to choose from, and its fields without one."""
    asked, default, field = config.env.train.curriculum, CurriculumConfig(), "env.train.curriculum"
    if not asked.enable:
        for name in ("floor_share", "low", "high", "memory_groups"):
            allowed = getattr(default, name)
            if asked[name] != allowed:
                because = f"which is read with {field}.enable=true alone"
                refuse(f"{field}.{name}", asked[name], str(allowed), f"set {field}.enable=true", because=because)
        return
    horizons = set(config.env.train.horizons)
    if len(horizons) < 2:
        refuse(
            "env.train.horizons",
            list(config.env.train.horizons),
            f"two or more with {field}.enable=true",
            "add one, or leave the curriculum out",
            because="among which nothing can be chosen",
        )
    if asked.floor_share * len(horizons) > 1:
        most = f"at most 1 / {len(horizons)}, the number of horizons"
        refuse(f"{field}.floor_share", asked.floor_share, most, "lower it")
    if asked.low > asked.high:
        refuse(f"{field}.low", asked.low, f"at most {field}.high={asked.high}", "lower it, or raise that")


def mini_batches(config: DictConfig) -> None:
    """Refuse mini-batches of the replay buffer that are not the actor's: within one, episodes are sorted by length."""
    ours = config.actor_rollout_ref
    for name, field, size in (
        ("tasks_per_update", "actor.ppo_mini_batch_size", ours.actor.ppo_mini_batch_size),
        ("episodes_per_task", "rollout.n", ours.rollout.n),
    ):
        given = config.trainer.v1.sampler.sampler_kwargs[name]
        if given != size:
            because = f"but it follows actor_rollout_ref.{field}"
            refuse(f"{_SAMPLER}.{name}", given, str(size), "leave it out, and set that", because=because)


SAMPLING_RULES = (filtered_groups, overlong, curriculum, mini_batches)
