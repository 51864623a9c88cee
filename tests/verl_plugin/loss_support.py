"""The policy loss as verl calls it, and its metrics as verl hands them on, for tests."""

import pytest

pytest.importorskip("verl")

from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import append_to_dict, rename_dict
from verl.workers.config import FSDPActorConfig

from tests.core import reference
from tests.core.batches import Tensors
from trm_agent.trust_region.paired_run import without_lone_update
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.verl_plugin.actor.policy_loss import TrmPolicyLossConfig, compute_policy_loss_trm
from trm_agent.verl_plugin.actor.update import (
    MicroBatch,
    Update,
    collect_update,
    final_metrics,
    set_micro_batch,
)

TRM = TrmConfig(criterion="both", max_token_kl=0.01, avg_token_kl=0.002)
REJECT_ALL = TrmConfig(max_token_kl=1e-30)
WHOLE_BATCH_MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


def actor_config(trm: TrmConfig = TRM, **batch_info) -> FSDPActorConfig:
    return FSDPActorConfig(
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=TrmPolicyLossConfig(trm=trm),
        global_batch_info={"loss_scale_factor": 10, **batch_info},
    )


def loss_of(tensors: Tensors, config: FSDPActorConfig, mode: str = "seq-mean-token-sum"):
    return compute_policy_loss_trm(
        old_log_prob=tensors.rollout_log_probs,
        log_prob=tensors.log_probs,
        advantages=tensors.advantages,
        response_mask=tensors.response_mask,
        loss_agg_mode=mode,
        config=config,
    )


def keep(batch: reference.Batch, trm: TrmConfig = TRM) -> list[bool]:
    return [reference.accepted(batch, i, trm.max_token_kl, trm.avg_token_kl) for i in range(len(batch))]


def batch_info(tensors: Tensors, dp_size: int = 1) -> dict:
    return {
        "dp_size": dp_size,
        "batch_num_tokens": int(tensors.response_mask.sum()),
        "global_batch_size": len(tensors.response_mask),
    }


def through_verl(updates: list[Update]) -> dict:
    """Do what verl's worker and trainer, and our driver, do with the metrics of a step's updates."""
    step: dict = {}
    for update in updates:
        append_to_dict(step, update.metrics())
    return without_lone_update(final_metrics(reduce_metrics(rename_dict(step, "actor/"))))


def update_of(parts: list[Tensors], config: FSDPActorConfig) -> Update:
    with collect_update() as update:
        for part in parts:
            assert loss_of(part, config)[1] == {}
    return update


def from_engine(loss, tensors: Tensors, trm: TrmConfig, micro_batch: MicroBatch) -> tuple:
    with collect_update() as update:
        set_micro_batch(micro_batch)
        value, _ = loss(tensors, actor_config(trm, **batch_info(tensors)))
        value.backward()
    return value, update
