"""The policy loss `trm` for verl: rename verl's tensors, call the core, aggregate over the whole batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, agg_loss, register_policy_loss
from verl.workers.config import PolicyLossConfig

from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.losses import decoupled_surrogate_tokens, masked_surrogate_tokens
from trm_agent.core.precision import without_autocast
from trm_agent.core.reductions import occurs
from trm_agent.core.token_batch import BatchDivergences, TokenBatch
from trm_agent.trust_region.masking import examine, with_thresholds
from trm_agent.trust_region.recording import REPLAYED
from trm_agent.trust_region.settings import FIELD_PATH, DumpConfig, TrmConfig
from trm_agent.trust_region.surroundings import LOSS_MODE
from trm_agent.verl_plugin.actor import before_ray
from trm_agent.verl_plugin.actor.before_ray import check_loss_aggregation
from trm_agent.verl_plugin.actor.update import MicroBatch, current_micro_batch, report
from trm_fields import refuse

TARGET = "trm_agent.verl_plugin.actor.policy_loss.TrmPolicyLossConfig"

# verl's modes that add up the tokens of a sequence; seq-mean-token-mean divides by the mask's lengths
ADDING_MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm")

if LOSS_MODE in POLICY_LOSS_REGISTRY and POLICY_LOSS_REGISTRY[LOSS_MODE].__module__ != __name__:
    raise ValueError(
        f"policy loss {LOSS_MODE!r} is already registered by {POLICY_LOSS_REGISTRY[LOSS_MODE].__module__}; "
        "two losses cannot share a name; remove that plugin, or rename its loss"
    )

before_ray.install()


@dataclass
class TrmPolicyLossConfig(PolicyLossConfig):
    """The policy-loss settings of verl, with those of Trust Region Masking.

    verl instantiates it from `actor_rollout_ref.actor.policy_loss` if `_target_` there names this class.
    """

    loss_mode: str = LOSS_MODE
    # A TrmConfig after construction. OmegaConf would make a field of a frozen dataclass type read-only in the tree.
    trm: Any = field(default_factory=dict)
    # A DumpConfig after construction.
    dump: Any = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in (("trm", TrmConfig), ("dump", DumpConfig)):
            value = getattr(self, name)
            if isinstance(value, kind):
                continue
            if not isinstance(value, Mapping):
                refuse(
                    f"actor_rollout_ref.actor.policy_loss.{name}",
                    value,
                    f"a mapping of {kind.__name__}'s fields",
                    "write one",
                )
            # verl's configs refuse a second assignment to a field.
            object.__setattr__(self, name, kind.from_mapping(value))


@register_policy_loss(LOSS_MODE)
@without_autocast
def compute_policy_loss_trm(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Compute the masked surrogate of Trust Region Masking on one micro-batch.

    With verl's bypass mode `old_log_prob` holds the rollout's log-probabilities: rho is then the ratio of the policy in
    training to the policy that sampled. Without it (`decoupled`, `mask_policy=start_of_step`) `old_log_prob` is of the
    trainer's policy at the start of the step, the rollout's log-probabilities come from the engine. The mask is born
    in every micro-batch, from the current policy or from that of the start, as `mask_policy` says.

    The paper's loss -(1/N) sum_i M_i sum_t A_it rho_it is `loss_agg_mode=seq-mean-token-sum`. `token-mean` divides by
    the model's tokens of the whole mini-batch instead of by N: a constant factor within one mini-batch, which shrinks
    the step when sequences are long. `seq-mean-token-mean` divides by lengths that the drawn tokens decide, so that a
    constant reward has a gain. All denominators count rejected sequences and come from verl's global mini-batch,
    so micro-batches, gradient accumulation and data-parallel ranks add up to the gradient of one undivided batch.

    Args:
        old_log_prob: see above, shape (batch, response_length), nats.
        log_prob: log-probabilities of the current policy, with graph, shape (batch, response_length), nats.
        advantages: shape (batch, response_length).
        response_mask: True (or 1) on tokens that the model sampled, shape (batch, response_length).
        loss_agg_mode: verl's aggregation mode.
        config: verl's actor config with a `TrmPolicyLossConfig`.
        rollout_is_weights: must be None; rho is already the importance weight.

    Returns:
        The loss (a graph even if everything is rejected) and the metrics that verl shall average: none inside
        `collect_update`.

    Raises:
        ValueError: for settings that cannot work with this loss.

    Reference:
        arXiv:2512.23075v4, masked surrogate and its gradient.
    """
    trm = _trm_config(config)
    if rollout_is_weights is not None:
        refuse(
            "algorithm.rollout_correction.rollout_is",
            "importance weights in the batch",
            "null",
            "set algorithm.rollout_correction.rollout_is=null",
            because="but trm weighs each token itself",
        )
    batch_info = dict(config.global_batch_info)
    check_loss_aggregation(loss_agg_mode, batch_info.get("loss_scale_factor"))
    response_mask = response_mask.bool()
    old_log_prob, log_prob = (
        values.to(torch.promote_types(values.dtype, torch.float32)) for values in (old_log_prob, log_prob)
    )
    micro_batch = current_micro_batch()
    trm = with_thresholds(trm, micro_batch.thresholds)
    rollout_log_probs = _rollout_log_probs(micro_batch, trm, old_log_prob)

    log_ratio = masked_log_ratio(log_prob, rollout_log_probs, response_mask)
    start_log_ratio = (
        masked_log_ratio(old_log_prob, rollout_log_probs, response_mask) if trm.starts_with_log_probs else None
    )
    batch = TokenBatch(
        log_ratio.detach(),
        rollout_log_probs,
        advantages,
        response_mask,
        _measured_divergences(trm, micro_batch, log_ratio.detach()),
        # with three policies the loss truncates the constant weight and not rho
        start_log_ratio if trm.decoupled else None,
        lags=micro_batch.lags,
        prompt_lengths=micro_batch.prompt_lengths,
        groups=micro_batch.groups,
        start_log_ratio=start_log_ratio,
        decided=micro_batch.decided,
    )
    kept, statistics = examine(trm, batch)
    tokens = _token_losses(trm, batch, kept, log_ratio, log_prob, old_log_prob)
    return _aggregated(tokens, response_mask, loss_agg_mode, batch_info), report(statistics, trm)


def _trm_config(config: Any) -> TrmConfig:
    trm = None if config is None else config.policy_loss.get("trm", None)
    if trm is None:
        refuse(
            FIELD_PATH,
            trm,
            "a mapping of TrmConfig's fields",
            f"set actor_rollout_ref.actor.policy_loss._target_={TARGET}",
            because=f"so the loss {LOSS_MODE!r} has no thresholds",
        )
    return trm if isinstance(trm, TrmConfig) else TrmConfig.from_mapping(trm)


def _rollout_log_probs(micro_batch: MicroBatch, trm: TrmConfig, old_log_prob: torch.Tensor) -> torch.Tensor:
    if not trm.starts_with_log_probs:
        return old_log_prob
    if micro_batch.rollout_log_probs is None:
        name, otherwise = ("decoupled", False) if trm.decoupled else ("mask_policy", "current")
        refuse(
            f"{FIELD_PATH}.{name}",
            getattr(trm, name),
            "this with verl's FSDP engine and actor_rollout_ref.rollout.calculate_log_probs=true",
            f"set both, or {name}={str(otherwise).lower()} with bypass_mode=true",
            because="but the batch has no rollout log-probs",
        )
    return micro_batch.rollout_log_probs


def _measured_divergences(trm: TrmConfig, micro_batch: MicroBatch, log_ratio: torch.Tensor) -> BatchDivergences | None:
    """Return the divergences that the engine took from the logits; None if only the sampled tokens are known."""
    if trm.estimator == "sampled":
        return None
    found = micro_batch.divergences
    if found is None:
        refuse(
            f"{FIELD_PATH}.estimator",
            trm.estimator,
            "topk, exact and replayed with a vLLM rollout, our agent loop and verl's FSDP engine",
            "choose these, or set estimator=sampled",
            because="but the batch carries no distributions of the rollout",
        )
    return found.of_batch(log_ratio, known=trm.estimator == "exact", replayed=trm.estimator == REPLAYED)


def _token_losses(
    trm: TrmConfig,
    batch: TokenBatch,
    kept: torch.Tensor,
    log_ratio: torch.Tensor,
    log_prob: torch.Tensor,
    old_log_prob: torch.Tensor,
) -> torch.Tensor:
    """Return each token's term of the surrogate of two or, decoupled, three policies, with the graph of `log_prob`."""
    if not trm.decoupled:
        return masked_surrogate_tokens(log_ratio, batch.advantages, kept, ratio_truncation=trm.ratio_truncation)
    return decoupled_surrogate_tokens(
        log_prob,
        old_log_prob,
        batch.rollout_log_probs,
        batch.advantages,
        kept,
        ratio_truncation=trm.ratio_truncation,
        proximal_clip=trm.proximal_clip,
    )


def _aggregated(
    tokens: torch.Tensor, response_mask: torch.Tensor, loss_agg_mode: str, batch_info: Mapping[str, Any]
) -> torch.Tensor:
    """Aggregate the tokens' terms as verl does.

    They are 0 where the mask is False, so a sequence's sum may stand for its tokens where the mode adds them: verl's
    own way over all tokens makes six more passes, forward and backward.
    """
    # of the unreduced mask: rejected sequences stay in every denominator
    denominators = _whole_batch(batch_info, response_mask)
    if loss_agg_mode in ADDING_MODES:
        tokens, response_mask = tokens.sum(dim=-1, keepdim=True), occurs(response_mask).unsqueeze(-1)
    return agg_loss(loss_mat=tokens, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **denominators)


def _whole_batch(batch_info: Mapping[str, Any], response_mask: torch.Tensor) -> dict[str, Any]:
    """Complete verl's denominators if one micro-batch is the whole batch, and keep an empty batch from 0 / 0."""
    info = dict(batch_info)
    if info.get("dp_size", 1) == 1:
        if info.get("batch_num_tokens") is None:
            info["batch_num_tokens"] = response_mask.sum()
        if info.get("global_batch_size") is None:
            info["global_batch_size"] = response_mask.any(dim=-1).sum()
    for name in ("batch_num_tokens", "global_batch_size"):
        value = info.get(name)
        if value is not None:
            info[name] = value.clamp(min=1) if isinstance(value, torch.Tensor) else max(value, 1)
    return info
