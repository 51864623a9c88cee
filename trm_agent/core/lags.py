"""Statistics by lag: the updates between the policy that sampled a token and the one that a step began with.

lag_{it} = (version of the step's policy) - (version that sampled y_{it}). The lag of a sequence is that of its oldest
token: a sequence mask rejects all of it by the worst.
"""

import torch

NUM_LAGS = 4
"""Lags 0, 1, 2, and 3 or more."""


def lag_statistics(
    lags: torch.Tensor, response_mask: torch.Tensor, kept: torch.Tensor, kl: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Measure a batch by lag.

    Args:
        lags: 0 or more on tokens that the model sampled, shape (batch, response_length).
        response_mask: bool, sampled by the model, same shape.
        kept: bool, tokens with a gradient, same shape.
        kl: divergences of the average criterion, 0 where the mask is False, same shape, nats.

    Returns:
        `lag` of each sequence, shape (batch,), -1 without tokens; and by lag, shape (batch, NUM_LAGS): `tokens`, `kept`
        ones, and the sum of their `kl`.
    """
    bins = lags.clamp(max=NUM_LAGS - 1)
    of_lag = [response_mask & (bins == lag) for lag in range(NUM_LAGS)]
    return {
        "lag": torch.where(response_mask, bins, -1).amax(dim=-1),
        "tokens": torch.stack([here.sum(dim=-1) for here in of_lag], dim=-1),
        "kept": torch.stack([(here & kept).sum(dim=-1) for here in of_lag], dim=-1),
        "kl": torch.stack([torch.where(here, kl, 0.0).sum(dim=-1) for here in of_lag], dim=-1),
    }
