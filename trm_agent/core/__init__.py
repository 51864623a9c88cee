"""The mathematics of Trust Region Masking (arXiv:2512.23075v4): tensors in, tensors out, torch only."""

from trm_agent.core.diagnostics import MaskDiagnostics, measure_mask
from trm_agent.core.divergences import (
    TOKEN_KL_ESTIMATORS,
    masked_log_ratio,
    token_kl,
    token_kl_k1,
    token_kl_k2,
    token_kl_k3,
)
from trm_agent.core.losses import masked_surrogate_loss, masked_surrogate_tokens
from trm_agent.core.masks import SequenceMask, sequence_mask_from_tokens, trust_region_mask
from trm_agent.core.reductions import masked_max, masked_mean, masked_min, masked_sum

__all__ = [
    "TOKEN_KL_ESTIMATORS",
    "MaskDiagnostics",
    "SequenceMask",
    "masked_log_ratio",
    "masked_max",
    "masked_mean",
    "masked_min",
    "masked_sum",
    "masked_surrogate_loss",
    "masked_surrogate_tokens",
    "measure_mask",
    "sequence_mask_from_tokens",
    "token_kl",
    "token_kl_k1",
    "token_kl_k2",
    "token_kl_k3",
    "trust_region_mask",
]
