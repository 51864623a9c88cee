"""The masked surrogate: importance-weighted policy gradient over the accepted sequences."""

import math

import torch


def masked_surrogate_tokens(
    log_ratio: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    accepted: torch.Tensor,
    *,
    ratio_truncation: float | None = None,
) -> torch.Tensor:
    """Return each token's term of the masked surrogate, as a loss.

    loss_it = -M_i A_it rho_it,   gradient = -M_i A_it min(rho_it, ratio_truncation) grad log pi_theta(y_t | c_t)

    Terms of rejected sequences and of tokens that the model did not sample are exactly 0 in value and gradient,
    whatever stands there, so an entirely rejected batch still has a graph.

    Args:
        log_ratio: log rho from `masked_log_ratio`, with its graph, shape (batch, response_length), nats.
        advantages: shape (batch, response_length).
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).
        accepted: bool, shape (batch,).
        ratio_truncation: upper cap on rho as a weight (it bounds the weight and lets the gradient of log pi through,
            unlike a clip, which stops it); None for no cap.

    Returns:
        Shape (batch, response_length).

    Reference:
        arXiv:2512.23075v4, gradient of the masked surrogate.
    """
    kept = response_mask & accepted.unsqueeze(-1)
    exponent = torch.where(kept, log_ratio, 0.0)
    if ratio_truncation is not None:
        constant = exponent.detach()
        exponent = constant.clamp(max=math.log(ratio_truncation)) + (exponent - constant)
    return torch.where(kept, -advantages.detach(), 0.0) * torch.exp(exponent)


def masked_surrogate_loss(
    log_ratio: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    accepted: torch.Tensor,
    *,
    num_sequences: int,
    ratio_truncation: float | None = None,
) -> torch.Tensor:
    """Return the negative masked surrogate of the paper.

    loss = -(1/N) sum_i M_i sum_t A_it rho_it

    N counts the whole batch, rejected sequences included, so that rejecting never inflates the others' gradient.

    Args:
        log_ratio: see `masked_surrogate_tokens`.
        advantages: see `masked_surrogate_tokens`.
        response_mask: see `masked_surrogate_tokens`.
        accepted: see `masked_surrogate_tokens`.
        num_sequences: N, the sequences of the whole batch over all micro-batches and ranks.
        ratio_truncation: see `masked_surrogate_tokens`.

    Returns:
        Scalar.

    Raises:
        ValueError: if `num_sequences` is not positive.

    Reference:
        arXiv:2512.23075v4, masked surrogate and its gradient.
    """
    if num_sequences < 1:
        raise ValueError(f"num_sequences: got {num_sequences}; allowed: 1 or more; give the whole batch's size")
    tokens = masked_surrogate_tokens(log_ratio, advantages, response_mask, accepted, ratio_truncation=ratio_truncation)
    return tokens.sum() / num_sequences
