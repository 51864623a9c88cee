"""A run's configuration as episodes need it, read once: to read one field of it takes as long as a step of a game."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_agent.episode import Limits
from trm_agent.runs.chat import chat_settings
from trm_agent.runs.compose import plain
from trm_agent.runs.deadlines import limits_of
from trm_agent.runs.sampling_settings import OverlongConfig
from trm_agent.trust_region.recording import num_recorded
from trm_agent.trust_region.surroundings import EXTENSION
from trm_agent.verl_plugin.rollout.places import places_per_worker


@dataclass(frozen=True)
class PlaySettings:
    """The settings of every episode of a run."""

    module: str | None
    """The user's module that registers environments."""
    env_kwargs: dict[str, Any]
    """Arguments of the environment's constructor, to be copied for each."""
    limits: Limits
    """When an episode stops."""
    chat: str
    """The chat's settings, as JSON."""
    num_recorded: int
    """Number of log-probs that a training episode records, see `recording.num_recorded`."""
    estimator: str | None
    """Of the `trm` loss; None for another loss."""
    keeps_record: bool
    """Whether dumps need the episode's record."""
    places: int
    """Episodes that one process plays at a time."""
    run_dir: str
    """Folder of the run."""
    seed: int | None
    """Seed of the run, from which turns have theirs; None if they have none."""
    overlong: OverlongConfig
    """What becomes of training episodes that run out of tokens."""
    keeps_contexts: bool
    """Whether the rollout servers are ours, which keep an episode's context (`contexts.py`)."""


_last: tuple[DictConfig, PlaySettings] | None = None


def play_settings(config: DictConfig) -> PlaySettings:
    """Return the settings of a configuration, which is read again only if another object comes."""
    global _last
    if _last is None or _last[0] is not config:
        _last = config, _read(config)
    return _last[1]


def _read(config: DictConfig) -> PlaySettings:
    loss = config.actor_rollout_ref.actor.policy_loss
    trm = loss.get("trm") if loss.loss_mode == "trm" else None
    return PlaySettings(
        module=config.env.module,
        env_kwargs=plain(config.env.kwargs),
        limits=limits_of(config),
        chat=json.dumps(asdict(chat_settings(config)), sort_keys=True),
        num_recorded=num_recorded(trm.estimator, trm.top_k, config.actor_rollout_ref.rollout.top_k) if trm else 0,
        estimator=trm.estimator if trm else None,
        keeps_record=bool(trm and loss.dump.every),
        places=places_per_worker(config),
        run_dir=str(config.run.dir),
        seed=int(config.seed) if OmegaConf.select(config, "run.deterministic") is True else None,
        overlong=OverlongConfig(**plain(config.env.overlong)),
        keeps_contexts=_are_ours(config),
    )


def _are_ours(config: DictConfig) -> bool:
    """Return True if an episode stays with one server, of those that our extension registers for vLLM."""
    rollout, libraries = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model.external_lib
    is_extended = libraries == EXTENSION or EXTENSION in (libraries or [])
    # servers that share a turn, and a router that may choose by the tokens of a prompt
    others = ("disaggregation.enabled", "router_config_path")
    return is_extended and rollout.name == "vllm" and not any(OmegaConf.select(rollout, name) for name in others)
