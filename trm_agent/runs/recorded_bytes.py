"""Memory of the rollout's recorded distributions in the queue between rollout and trainer."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from trm_agent.runs.elsewhere import is_elsewhere
from trm_agent.runs.planning.host import free_memory_gib
from trm_agent.runs.planning.machine import GIB
from trm_agent.runs.preflight_async import ahead_of_step, warmup_of
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
    queue: int
    """Bytes of these and of the tasks that are ahead of their step: while it trains, those may all be done."""


def recorded_bytes(config: DictConfig, vocab_size: int) -> RecordedBytes | None:
    """Return the memory of the records; None where none are kept."""
    loss, rollout = config.actor_rollout_ref.actor.policy_loss, config.actor_rollout_ref.rollout
    if loss.loss_mode != "trm":
        return None
    num = num_recorded(loss.trm.estimator, loss.trm.top_k, rollout.top_k)
    if not num:
        return None
    token = vocab_size * _LOG_PROB if num == ALL else min(num, vocab_size) * (_LOG_PROB + _ID)
    batch, task = config.data.train_batch_size, token * rollout.n * config.data.max_response_length
    return RecordedBytes(token, task * batch, task * (batch + ahead_of_step(config)))


def told_records(config: DictConfig, vocab_size: int) -> str | None:
    """Return a line on the memory of the records; None where none are kept.

    Raises:
        ValueError: with estimator `replayed` the largest of a step, and of the tasks that are ahead of theirs, would
            not fit into the free memory of this machine, which holds the queue.
    """
    found = recorded_bytes(config, vocab_size)
    if found is None:
        return None
    estimator = config.actor_rollout_ref.actor.policy_loss.trm.estimator
    told = f"{found.token:,} bytes a token, at most {found.step / GIB:.3g} GiB a step"
    ahead = f", {warmup_of(config)}" if found.queue > found.step else ""
    if ahead:
        told += f", {found.queue / GIB:.3g} GiB with the tasks that are ahead of theirs"
    free = free_memory_gib()
    if estimator == REPLAYED and not is_elsewhere(config) and found.queue / GIB > free:
        refuse(
            f"{FIELD_PATH}.estimator",
            estimator,
            f"records of at most the {free:.1f} GiB of memory that are free, since the data queue holds them",
            f"lower data.max_response_length, data.train_batch_size{ahead} or the number of recorded log-probs, or set "
            "estimator=sampled",
            because=f"whose recorded distributions take {told}",
        )
    return f"estimator {estimator}: the recorded distributions take {told}"
