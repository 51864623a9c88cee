"""The mathematics of Trust Region Masking (arXiv:2512.23075v4): tensors in, tensors out, torch only."""

from trm_agent.core.bound_sums import (
    bound_sums,
)
from trm_agent.core.bounds import (
    ErrorBounds,
    adaptive_bound,
    classical_bound,
    coupling_bound,
    error_bounds,
    halved,
    mixed_bound,
    pinsker,
    pinsker_marginal_bound,
    pinsker_marginal_integral,
    tail_weights,
)
from trm_agent.core.chi2_bounds import (
    chi2_kl_bound,
    path_sum_bound,
    pooled_chi2_kl_bound,
    proportional_chi2_kl_bound,
    token_chi2,
)
from trm_agent.core.diagnostics import (
    SequenceStatistics,
    UpdateStatistics,
    concatenate,
    finite_sequences,
    measure_batch,
    position_sums,
)
from trm_agent.core.distribution_checks import (
    check_log_probs,
    check_topk,
    check_topk_shapes,
)
from trm_agent.core.divergences import (
    abs_log_ratio,
    abs_ratio_minus_one,
    masked_log_ratio,
    token_divergence,
    token_kl_k1,
    token_kl_k2,
    token_kl_k3,
)
from trm_agent.core.exact import (
    TokenDivergences,
    accumulation_dtype,
    check_options,
    divergence_sums,
    divergences_from_sums,
    exact_divergences,
)
from trm_agent.core.exact_hidden import (
    exact_divergences_from_hidden,
)
from trm_agent.core.horizon import (
    effective_horizon,
)
from trm_agent.core.intervals import (
    DivergenceInterval,
    default_log_prob_error,
    topk_intervals,
)
from trm_agent.core.losses import (
    decoupled_surrogate_tokens,
    kept_tokens,
    masked_surrogate_loss,
    masked_surrogate_tokens,
)
from trm_agent.core.masks import (
    Interval,
    SequenceMask,
    length_neutral_statistic,
    max_statistic,
    mean_statistic,
    random_mask,
    ratio_deviation_statistic,
    remaining_tokens,
    sequence_mask,
    usable_ratios,
)
from trm_agent.core.opsm import (
    off_policy_sequence_mask,
    unclipped_tokens,
)
from trm_agent.core.prefix_masks import (
    prefix_mean_statistic,
    pushes_outward,
    restricted_max_statistic,
    until_first,
)
from trm_agent.core.reductions import (
    masked_max,
    masked_mean,
    masked_min,
    masked_sum,
)
from trm_agent.core.sampled_bounds import (
    sampled_bounds,
)
from trm_agent.core.stop import (
    before_first_outside,
    cut_bound,
    hybrid_bound,
    stop_bound,
)
from trm_agent.core.summary import (
    acceptance_by_length,
    least_threshold,
    summarize,
)
from trm_agent.core.surrogate import (
    improvement_margin,
    surrogate,
    surrogate_gain,
)
from trm_agent.core.token_batch import (
    BatchDivergences,
    DivergenceBounds,
    TokenBatch,
    sampled_divergences,
)
from trm_agent.core.token_masks import (
    prefix_budget_mask,
    token_mask,
)
from trm_agent.core.turns import (
    turn_numbers,
)

__all__ = [
    "BatchDivergences",
    "DivergenceBounds",
    "DivergenceInterval",
    "ErrorBounds",
    "Interval",
    "SequenceMask",
    "SequenceStatistics",
    "TokenBatch",
    "TokenDivergences",
    "UpdateStatistics",
    "abs_log_ratio",
    "abs_ratio_minus_one",
    "acceptance_by_length",
    "accumulation_dtype",
    "adaptive_bound",
    "before_first_outside",
    "bound_sums",
    "check_log_probs",
    "check_options",
    "check_topk",
    "check_topk_shapes",
    "chi2_kl_bound",
    "classical_bound",
    "concatenate",
    "coupling_bound",
    "cut_bound",
    "decoupled_surrogate_tokens",
    "default_log_prob_error",
    "divergence_sums",
    "divergences_from_sums",
    "effective_horizon",
    "error_bounds",
    "exact_divergences",
    "exact_divergences_from_hidden",
    "finite_sequences",
    "halved",
    "hybrid_bound",
    "improvement_margin",
    "kept_tokens",
    "least_threshold",
    "length_neutral_statistic",
    "masked_log_ratio",
    "masked_max",
    "masked_mean",
    "masked_min",
    "masked_sum",
    "masked_surrogate_loss",
    "masked_surrogate_tokens",
    "max_statistic",
    "mean_statistic",
    "measure_batch",
    "mixed_bound",
    "off_policy_sequence_mask",
    "path_sum_bound",
    "pinsker",
    "pinsker_marginal_bound",
    "pinsker_marginal_integral",
    "pooled_chi2_kl_bound",
    "position_sums",
    "prefix_budget_mask",
    "prefix_mean_statistic",
    "proportional_chi2_kl_bound",
    "pushes_outward",
    "random_mask",
    "ratio_deviation_statistic",
    "remaining_tokens",
    "restricted_max_statistic",
    "sampled_bounds",
    "sampled_divergences",
    "sequence_mask",
    "stop_bound",
    "summarize",
    "surrogate",
    "surrogate_gain",
    "tail_weights",
    "token_chi2",
    "token_divergence",
    "token_kl_k1",
    "token_kl_k2",
    "token_kl_k3",
    "token_mask",
    "topk_intervals",
    "turn_numbers",
    "unclipped_tokens",
    "until_first",
    "usable_ratios",
]
