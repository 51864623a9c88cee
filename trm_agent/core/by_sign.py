"""Statistics by the sign of the advantage: what the update makes likelier, and what less likely.

What a token adds to the loss beside its value on policy is -(rho - 1) A. A ratio that has already moved the way the
gradient pushes (rho > 1 with A > 0, rho < 1 with A < 0) makes it negative.
"""

import torch

SIGNS = ("positive", "negative")


def sign_statistics(
    advantages: torch.Tensor, gains: torch.Tensor, response_mask: torch.Tensor, kept: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Measure a batch by the sign of each token's advantage.

    Args:
        advantages: shape (batch, response_length).
        gains: A (rho - 1), 0 where the mask is False, same shape.
        response_mask: bool, sampled by the model, same shape.
        kept: bool, tokens with a gradient, same shape; or shape (batch,), sequences whose tokens all have one.

    Returns:
        Shape (batch, 2), for A > 0 and for A < 0: `tokens`, `kept` ones, the sums of their `gains` and `kept_gains`.
    """
    of_sign = [response_mask & (advantages > 0), response_mask & (advantages < 0)]
    tokens = _counts(of_sign)
    sums = _split(of_sign[0], gains)
    if kept.ndim == 1:
        whole = kept.unsqueeze(-1)
        kept_tokens, kept_sums = torch.where(whole, tokens, 0), torch.where(whole, sums, 0.0)
    else:
        kept_tokens = _counts([here & kept for here in of_sign])
        kept_sums = _split(of_sign[0], torch.where(kept, gains, 0.0))
    return {"tokens": tokens, "kept": kept_tokens, "gains": sums, "kept_gains": kept_sums}


def sign_metrics(
    by_sign: dict[str, torch.Tensor], accepted: torch.Tensor, finite: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Form the metrics of each sign that occurs.

    Args:
        by_sign: rows of `sign_statistics`.
        accepted: bool, shape (batch,).
        finite: bool, sequences that count in means, shape (batch,).

    Returns:
        Name -> scalar float64.
    """
    metrics: dict[str, torch.Tensor] = {}
    tokens, kept = (by_sign[name].double() for name in ("tokens", "kept"))
    num_tokens, num_kept = tokens.sum(dim=0), kept.sum(dim=0)
    finite_tokens = tokens[finite].sum(dim=0)
    gains, kept_gains = (by_sign[name][finite].double().sum(dim=0) for name in ("gains", "kept_gains"))
    for index, sign in enumerate(SIGNS):
        # of one advantage a sequence, its sign
        mostly = tokens[:, index] > tokens[:, 1 - index]
        if bool(mostly.any()):
            metrics[f"acceptance_{sign}"] = accepted[mostly].double().mean()
        if bool(num_tokens[index] > 0):
            metrics[f"kept_tokens_{sign}"] = num_kept[index] / num_tokens[index]
        if bool(finite_tokens[index] > 0):
            metrics[f"contribution_{sign}"] = -gains[index] / finite.double().sum()
            metrics[f"contribution_{sign}_masked"] = -kept_gains[index] / finite.double().sum()
    return metrics


def _counts(masks: list[torch.Tensor]) -> torch.Tensor:
    # of bytes: torch sums them in half the time that it takes for truth values
    return torch.stack([mask.view(torch.uint8).sum(dim=-1, dtype=torch.int32) for mask in masks], dim=-1)


def _split(positive: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """Sum the gains where A > 0, and the others, which are those where A < 0: with A = 0 a gain is 0."""
    above = torch.where(positive, gains, 0.0).sum(dim=-1)
    return torch.stack([above, gains.sum(dim=-1) - above], dim=-1)
