"""Memory of the rollout's recorded distributions in the queue between rollout and trainer."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from trm_agent.runs.elsewhere import is_elsewhere
from trm_agent.runs.planning.host import free_memory_gib
from trm_agent.runs.planning.machine import GIB
from trm_agent.trust_region.recording import ALL, REPLAYED, num_recorded
from trm_agent.trust_region.settings import FIELD_PATH
from trm_fields import refuse

_LOG_PROB, _ID = 4, 8


@dataclass(frozen=True)
class RecordedBytes:
    """What an estimator's records take."""

    token: int
    """Bytes of a token of the response."""
    step: int
    """Bytes of a step whose episodes are all as long as they may be."""


def recorded_bytes(config: DictConfig, vocab_size: int) -> RecordedBytes | None:
    """Return the memory of the records; None where none are kept."""
    loss, rollout = config.actor_rollout_ref.actor.policy_loss, config.actor_rollout_ref.rollout
    if loss.loss_mode != "trm":
        return None
    num = num_recorded(loss.trm.estimator, loss.trm.top_k, rollout.top_k)
    if not num:
        return None
    token = vocab_size * _LOG_PROB if num == ALL else min(num, vocab_size) * (_LOG_PROB + _ID)
    episodes = config.data.train_batch_size * rollout.n
    return RecordedBytes(token, token * episodes * config.data.max_response_length)


def told_records(config: DictConfig, vocab_size: int) -> str | None:
    """Return a line on the memory of the records; None where none are kept.

    Raises:
        ValueError: with estimator `replayed` a step's largest would not fit into the free memory of this machine, which
            holds the queue.
    """
    found = recorded_bytes(config, vocab_size)
    if found is None:
        return None
    estimator, step = config.actor_rollout_ref.actor.policy_loss.trm.estimator, found.step / GIB
    told = f"{found.token:,} bytes a token, at most {step:.3g} GiB a step"
    free = free_memory_gib()
    if estimator == REPLAYED and not is_elsewhere(config) and step > free:
        refuse(
            f"{FIELD_PATH}.estimator",
            estimator,
            f"records of at most the {free:.1f} GiB of memory that are free, since the data queue holds them",
            "lower data.max_response_length, data.train_batch_size or the number of recorded log-probs, or set "
            "estimator=sampled",
            because=f"whose recorded distributions take {told}",
        )
    return f"estimator {estimator}: the recorded distributions take {told}"
