"""Statistics by the sign of the advantage: what the update makes likelier, and what less likely.

What a token adds to the loss beside its value on policy is -(rho - 1) A. A ratio that has already moved the way the
gradient pushes (rho > 1 with A > 0, rho < 1 with A < 0) makes it negative.
"""

import torch

from trm_agent.core.ratios import Ratio, each_update, ratio
from trm_agent.core.reductions import count, occurs, rows_where

SIGNS = ("positive", "negative")


def sign_statistics(
    advantages: torch.Tensor,
    deviation: torch.Tensor,
    response_mask: torch.Tensor,
    kept: torch.Tensor,
    *,
    num_tokens: torch.Tensor,
    num_kept: torch.Tensor,
    sum_deviation: torch.Tensor,
    first: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Measure a batch by the sign of each token's advantage.

    A sequence with one advantage, as most estimators give it, needs its sums alone; on a device, where asking would
    wait, every token is looked at.

    Args:
        advantages: finite, shape (batch, response_length).
        deviation: rho - 1, 0 where the mask is False, same shape.
        response_mask: bool, sampled by the model, same shape.
        kept: bool, tokens with a gradient, same shape; or shape (batch,), sequences whose tokens all have one.
        num_tokens: T, shape (batch,).
        num_kept: tokens with a gradient, shape (batch,).
        sum_deviation: sum_t (rho_t - 1), shape (batch,), float64.
        first: place of the first token of the model, shape (batch,); any where there is none.

    Returns:
        Shape (batch, 2), for A > 0 and for A < 0: `tokens`, `kept` ones, and the float64 sums of A (rho - 1), `gains`,
        and of those with a gradient, `kept_gains`.
    """
    own = advantages.gather(-1, first.unsqueeze(-1))
    if kept.ndim == 1:
        kept_deviation = torch.where(kept, sum_deviation, 0.0)
    else:
        kept_deviation = torch.where(kept, deviation, 0.0).sum(dim=-1).double()
    of_rows = {
        "tokens": num_tokens,
        "kept": num_kept,
        "gains": own.squeeze(-1).double() * sum_deviation,
        "kept_gains": own.squeeze(-1).double() * kept_deviation,
    }
    signs = torch.cat([own > 0, own < 0], dim=-1)
    found = {name: torch.where(signs, values.unsqueeze(-1), 0) for name, values in of_rows.items()}
    rows = rows_where(_differ(advantages, own, response_mask))
    if not len(rows):
        return found
    by_token = _of_tokens(*(values[rows] for values in (advantages, deviation, response_mask, kept)))
    return {name: values.index_copy(0, rows, by_token[name].to(values.dtype)) for name, values in found.items()}


def sign_metrics(by_sign: dict[str, torch.Tensor], accepted: torch.Tensor, finite: torch.Tensor) -> dict[str, Ratio]:
    """Form the metrics of each sign.

    Args:
        by_sign: rows of `sign_statistics`.
        accepted: bool, shape (batch,).
        finite: bool, sequences that count in means, shape (batch,).

    Returns:
        Name -> ratio, for both signs.
    """
    metrics: dict[str, Ratio] = {}
    of_sign = sequences_of_sign(by_sign)
    num_tokens, num_kept = (by_sign[name].double().sum(dim=0) for name in ("tokens", "kept"))
    finite_tokens = by_sign["tokens"][finite].sum(dim=0)
    gains, kept_gains = (by_sign[name][finite].double().sum(dim=0) for name in ("gains", "kept_gains"))
    # an update without a finite sequence has no such mean
    has_finite = finite.any()
    for index, sign in enumerate(SIGNS):
        own = of_sign[sign]
        metrics[f"acceptance_{sign}"] = ratio(accepted[own].sum(), own.sum())
        metrics[f"kept_tokens_{sign}"] = ratio(num_kept[index], num_tokens[index])
        # terms of a mean over the update's sequences: over updates too they add up to that of all signs
        for name, sums in (("", gains), ("_masked", kept_gains)):
            term = -sums[index] / finite.double().sum()
            metrics[f"contribution_{sign}{name}"] = each_update(term, finite_tokens[index], has_finite)
    return metrics


def sequences_of_sign(by_sign: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tell the sequences with more tokens of a sign than of the other: of one advantage a sequence, its sign.

    Args:
        by_sign: rows of `sign_statistics`.

    Returns:
        Sign -> bool, shape (batch,).
    """
    tokens = by_sign["tokens"]
    return {sign: tokens[:, index] > tokens[:, 1 - index] for index, sign in enumerate(SIGNS)}


def _differ(advantages: torch.Tensor, own: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """Return the sequences with a token of the model whose advantage is not `own`, shape (batch,)."""
    return occurs((advantages != own) & response_mask)


def _of_tokens(
    advantages: torch.Tensor, deviation: torch.Tensor, response_mask: torch.Tensor, kept: torch.Tensor
) -> dict[str, torch.Tensor]:
    """`sign_statistics` of sequences whose tokens have several advantages."""
    of_sign = [response_mask & (advantages > 0), response_mask & (advantages < 0)]
    with_gradient = kept if kept.ndim == 2 else kept.unsqueeze(-1)
    gains = advantages * deviation
    masks = {"": of_sign, "kept_": [here & with_gradient for here in of_sign]}
    found = {f"{name}gains": _sums(here, gains) for name, here in masks.items()}
    counts = {name: torch.stack([count(mask) for mask in here], dim=-1) for name, here in masks.items()}
    return found | {"tokens": counts[""], "kept": counts["kept_"]}


def _sums(masks: list[torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.where(mask, values, 0.0).sum(dim=-1) for mask in masks], dim=-1)
