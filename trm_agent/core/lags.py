"""Statistics by lag: the versions between the policy that sampled a token and the one that a step began with.

lag_{it} = (version of the step's policy) - (version that sampled y_{it}). A version is a synchronisation of the
engine's weights, with one or more updates in it. The lag of a sequence is that of its oldest token: a sequence mask
rejects all of it by the worst. Its span is how far its oldest and its newest token lie apart.
"""

from collections.abc import Mapping

import torch

from trm_agent.core.ratios import Ratio, ratio

NUM_LAGS = 4
"""Lags 0, 1, 2, and 3 or more; spans likewise."""


def lag_statistics(
    lags: torch.Tensor,
    response_mask: torch.Tensor,
    kept: torch.Tensor,
    kl: torch.Tensor,
    unknown: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Measure a batch by lag.

    Args:
        lags: 0 or more on tokens that the model sampled, shape (batch, response_length).
        response_mask: bool, sampled by the model, same shape.
        kept: bool, tokens with a gradient, same shape.
        kl: divergences of the average criterion, 0 where the mask is False or nothing is known, same shape, nats.
        unknown: bool, tokens of whose divergence nothing is known, same shape; None for none.

    Returns:
        `lag` and `span` of each sequence, shape (batch,), -1 without tokens; and by lag, shape (batch, NUM_LAGS):
        `tokens`, `kept` ones, those whose divergence is `known`, and the sum of their `kl`.
    """
    bins = lags.clamp(max=NUM_LAGS - 1)
    of_lag = [response_mask & (bins == lag) for lag in range(NUM_LAGS)]
    oldest = torch.where(response_mask, lags, -1).amax(dim=-1)
    newest = torch.where(response_mask, lags, torch.iinfo(lags.dtype).max).amin(dim=-1)
    tokens = known = torch.stack([here.sum(dim=-1) for here in of_lag], dim=-1)
    if unknown is not None:
        known = tokens - torch.stack([(here & unknown).sum(dim=-1) for here in of_lag], dim=-1)
    return {
        "lag": oldest.clamp(max=NUM_LAGS - 1),
        "span": torch.where(oldest < 0, -1, oldest - newest).clamp(max=NUM_LAGS - 1),
        "tokens": tokens,
        "kept": torch.stack([(here & kept).sum(dim=-1) for here in of_lag], dim=-1),
        "known": known,
        "kl": torch.stack([torch.where(here, kl, 0.0).sum(dim=-1) for here in of_lag], dim=-1),
    }


def lag_metrics(by_lag: dict[str, torch.Tensor], accepted: torch.Tensor, finite: torch.Tensor) -> dict[str, Ratio]:
    """Form the metrics by lag: of tokens by their own, of sequences by that of their oldest token.

    Args:
        by_lag: rows of `lag_statistics`; empty where all tokens are of one policy.
        accepted: bool, shape (batch,).
        finite: bool, sequences that count in means, shape (batch,).

    Returns:
        Name -> ratio, for every lag; shares of a lag that does not occur are 0.
    """
    metrics: dict[str, Ratio] = {}
    if not by_lag:
        return metrics
    num_sequences = (by_lag["lag"] >= 0).sum()
    tokens, kept, known, kl = (by_lag[name].double() for name in ("tokens", "kept", "known", "kl"))
    num_tokens, num_known = tokens.sum(dim=0), known[finite].sum(dim=0)
    for lag in range(NUM_LAGS):
        oldest = by_lag["lag"] == lag
        metrics[f"sequences_lag_{lag}"] = ratio(oldest.sum(), num_sequences)
        metrics[f"acceptance_lag_{lag}"] = ratio(accepted[oldest].sum(), oldest.sum())
        metrics[f"tokens_lag_{lag}"] = ratio(num_tokens[lag], num_tokens.sum())
        metrics[f"kept_tokens_lag_{lag}"] = ratio(kept[:, lag].sum(), num_tokens[lag])
        metrics[f"token_kl_mean_lag_{lag}"] = ratio(kl[finite, lag].sum(), num_known[lag])
    return metrics


def span_metrics(
    by_lag: dict[str, torch.Tensor],
    accepted: torch.Tensor,
    sum_kl: torch.Tensor,
    finite: torch.Tensor,
    of_sign: Mapping[str, torch.Tensor],
) -> dict[str, Ratio]:
    """Form the metrics of the sequences of each span.

    Args:
        by_lag: rows of `lag_statistics`; empty where all tokens are of one policy.
        accepted: bool, shape (batch,).
        sum_kl: divergence of each sequence, shape (batch,), nats.
        finite: bool, sequences that count in means, shape (batch,).
        of_sign: sign of the advantage -> bool, its sequences, shape (batch,).

    Returns:
        Name -> ratio, for every span; shares of a span that does not occur are 0.
    """
    metrics: dict[str, Ratio] = {}
    if not by_lag:
        return metrics
    num_sequences = (by_lag["span"] >= 0).sum()
    num_tokens, num_kept, num_known = (by_lag[name].sum(dim=-1) for name in ("tokens", "kept", "known"))
    for span in range(NUM_LAGS):
        own = by_lag["span"] == span
        metrics[f"sequences_span_{span}"] = ratio(own.sum(), num_sequences)
        metrics[f"tokens_span_{span}"] = ratio(num_tokens[own].sum(), num_tokens.sum())
        metrics[f"acceptance_span_{span}"] = ratio(accepted[own].sum(), own.sum())
        metrics[f"kept_tokens_span_{span}"] = ratio(num_kept[own].sum(), num_tokens[own].sum())
        for sign, rows in of_sign.items():
            signed = own & rows
            metrics[f"sequences_{sign}_span_{span}"] = ratio(signed.sum(), num_sequences)
            metrics[f"acceptance_{sign}_span_{span}"] = ratio(accepted[signed].sum(), signed.sum())
        counted = own & finite
        metrics[f"token_kl_mean_span_{span}"] = ratio(sum_kl[counted].double().sum(), num_known[counted].sum())
    return metrics
