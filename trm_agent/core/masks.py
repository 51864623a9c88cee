"""Which sequences stay in the update: the trust-region masks M(x, y)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from trm_agent.core.bounds import tail_weights
from trm_agent.core.reductions import masked_mean, masked_sum

UNDECIDED_RULES = ("reject", "accept")


@dataclass(frozen=True)
class Interval:
    """A divergence of every sequence or token, known exactly or between certified bounds."""

    lower: torch.Tensor
    """Certified lower bound; the value itself where it is known."""
    upper: torch.Tensor
    """Certified upper bound; the same tensor as `lower` where the value is known."""

    @classmethod
    def known(cls, value: torch.Tensor) -> "Interval":
        """Return an interval of one value."""
        return cls(value, value)

    @classmethod
    def known_but(cls, value: torch.Tensor, unknown: torch.Tensor | None) -> "Interval":
        """Return an interval of one value, and from 0 without an upper bound where `unknown` is True; None: nowhere."""
        if unknown is None:
            return cls.known(value)
        return cls(value.masked_fill(unknown, 0.0), value.masked_fill(unknown, torch.inf))

    def rows(self, rows: slice | torch.Tensor) -> "Interval":
        """Return the bounds of some of the sequences."""
        return self.map(lambda bound: bound[rows])

    def where(self, condition: torch.Tensor) -> "Interval":
        """Return the bounds where the condition is True, else NaN, which rejects."""
        return self.map(lambda bound: torch.where(condition, bound, torch.nan))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Interval":
        """Apply a function that never decreases to both bounds, once where the value is known."""
        lower = change(self.lower)
        return Interval(lower, lower if self.is_known else change(self.upper))

    @property
    def is_known(self) -> bool:
        """Whether lower and upper bound are one tensor."""
        return self.upper is self.lower


@dataclass(frozen=True)
class SequenceMask:
    """A decision for every sequence of a batch. Tensors are bool with shape (batch,) unless it says otherwise."""

    accepted: torch.Tensor
    """True where the sequence stays in the update. Always False for a sequence without a token of the model."""
    rejected_by: dict[str, torch.Tensor]
    """Criterion -> True where it alone would reject; a sequence outside two criteria is in both."""
    undecided: torch.Tensor
    """True where the two bounds of a divergence lead to different decisions, and the rule for the undecided decided:
    a threshold lies inside a statistic's interval, or a token stays by one bound alone."""
    has_tokens: torch.Tensor
    """True where the sequence has at least one token of the model; the others are padding and never counted."""
    decided_by: dict[str, torch.Tensor] = field(default_factory=dict)
    """Criterion -> the numbers that were compared with its threshold: with intervals the bound that the rule for the
    undecided looks at. Floats; empty where no threshold decides."""
    num_undecided: torch.Tensor | None = None
    """Tokens on which the rule for the undecided decided, int32; None where no single tokens are decided on, or every
    divergence is known."""


def sequence_mask(
    statistics: Mapping[str, Interval],
    thresholds: Mapping[str, float],
    has_tokens: torch.Tensor,
    *,
    undecided: str = "reject",
) -> SequenceMask:
    """Accept the sequences whose statistics stay inside every threshold.

    M(x, y) = prod_criterion 1[statistic <= threshold]

    With an interval: accepted if the upper bound is inside, rejected if the lower bound is outside. What is left is
    undecided: `reject` keeps the guarantee (nothing outside gets in), `accept` rejects only what is proven outside.
    A statistic that is NaN rejects.

    Args:
        statistics: criterion -> its statistic, shape (batch,).
        thresholds: criterion -> the largest value that is accepted, in the statistic's unit.
        has_tokens: bool, shape (batch,).
        undecided: `reject` or `accept`.

    Returns:
        The decision with its reasons. It carries no gradient.

    Raises:
        ValueError: if the rule is unknown or the criteria of the two mappings differ.

    Reference:
        arXiv:2512.23075v4, sequence masks by maximum, by average and both.
    """
    if undecided not in UNDECIDED_RULES:
        raise ValueError(f"undecided: got {undecided!r}; allowed: {', '.join(UNDECIDED_RULES)}; choose one of them")
    if set(statistics) != set(thresholds):
        raise ValueError(
            f"thresholds for {sorted(thresholds)}, statistics for {sorted(statistics)}; give both for each criterion"
        )
    accepted, any_undecided = has_tokens, torch.zeros_like(has_tokens)
    rejected_by, decided_by = {}, {}
    for name, statistic in statistics.items():
        # The mask is born here: it is a constant to the optimiser. "Not inside" and never "outside": a comparison with
        # NaN is False, and NaN must reject.
        outside = has_tokens & ~(statistic.lower.detach() <= thresholds[name])
        if not statistic.is_known:
            open_ = has_tokens & ~outside & ~(statistic.upper.detach() <= thresholds[name])
            any_undecided = any_undecided | open_
            outside = outside | (open_ if undecided == "reject" else has_tokens & statistic.upper.detach().isnan())
        rejected_by[name] = outside
        decided_by[name] = (statistic.upper if undecided == "reject" else statistic.lower).detach()
        accepted = accepted & ~outside
    return SequenceMask(accepted, rejected_by, any_undecided, has_tokens, decided_by)


def max_statistic(divergence: Interval) -> Interval:
    """Reduce token divergences to max_t D_t.

    Args:
        divergence: of the tokens, nowhere negative and 0 on what the model did not sample, shape (batch,
            response_length), nats.

    Returns:
        Shape (batch,).
    """
    lower = divergence.lower.detach().amax(dim=-1)
    return Interval(lower, lower if divergence.is_known else divergence.upper.detach().amax(dim=-1))


def mean_statistic(divergence: Interval, lengths: torch.Tensor) -> Interval:
    """Reduce token divergences to (1/T) sum_t D_t.

    Args:
        divergence: see `max_statistic`.
        lengths: T, tokens of the model, shape (batch,).

    Returns:
        Shape (batch,); 0 for a sequence without a token.
    """
    num_tokens = lengths.clamp(min=1)
    lower = divergence.lower.detach().sum(dim=-1) / num_tokens
    return Interval(lower, lower if divergence.is_known else divergence.upper.detach().sum(dim=-1) / num_tokens)


def remaining_tokens(response_mask: torch.Tensor) -> torch.Tensor:
    """Return T - t: how many tokens of the model follow each one, t = 1 .. T over the model's tokens.

    Args:
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).

    Returns:
        int64, shape (batch, response_length); meaningless where the mask is False.
    """
    return response_mask.sum(dim=-1, keepdim=True) - response_mask.cumsum(dim=-1)


def length_neutral_statistic(
    log_ratio: torch.Tensor,
    response_mask: torch.Tensor,
    *,
    max_token_kl: float,
    max_token_tv: float | None = None,
    unknown: torch.Tensor | None = None,
) -> Interval:
    """Return W / Z of LN-TRM: the deviation of the ratios weighted by how far each can still spread.

    w_t = min(1, (T - t) eps, sqrt((T - t) delta / 2)),  W = sum_t |rho_t - 1| w_t,  Z = sum_t w_t

    T is the sequence's own length. Its last token has nothing that could spread, so w_T = 0 whatever its ratio; of a
    single token W = Z = 0, and W / Z is taken as 0.

    Args:
        log_ratio: log rho from `masked_log_ratio`, shape (batch, response_length), nats.
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).
        max_token_kl: delta, the largest token KL over contexts, nats.
        max_token_tv: eps, the largest token total variation; None derives sqrt(delta / 2) by Pinsker.
        unknown: see `ratio_deviation_statistic`; where w_t = 0 it does not matter.

    Returns:
        Shape (batch,).

    Reference:
        arXiv:2512.23075v4, length-neutral TRM: |Error| <= 2 E_roll[W] if delta holds globally, for one T. docs/math.md
        has what holds for sequences of different lengths.
    """
    weight = tail_weights(
        remaining_tokens(response_mask).to(log_ratio.dtype),
        max_kl=log_ratio.new_tensor(max_token_kl),
        max_tv=None if max_token_tv is None else log_ratio.new_tensor(max_token_tv),
    )
    weight = torch.where(response_mask, weight, 0.0)
    weighted = Interval.known_but(
        torch.expm1(log_ratio.detach()).abs() * weight, None if unknown is None else unknown & (weight > 0)
    )
    total = weight.sum(dim=-1).clamp(min=torch.finfo(weight.dtype).tiny)
    return weighted.map(lambda bound: masked_sum(bound, response_mask) / total)


def ratio_deviation_statistic(
    log_ratio: torch.Tensor, response_mask: torch.Tensor, unknown: torch.Tensor | None = None
) -> Interval:
    """Return the statistic of SER: (1/T) sum_t |rho_t - 1|, twice an unbiased estimate of the mean total variation.

    Args:
        log_ratio: log rho from `masked_log_ratio`, shape (batch, response_length), nats.
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).
        unknown: bool, same shape, True where nothing is known of rho; None: nowhere.

    Returns:
        Shape (batch,).

    Reference:
        arXiv:2512.23075v4, SER.
    """
    deviation = Interval.known_but(torch.expm1(log_ratio.detach()).abs(), unknown)
    return deviation.map(lambda bound: masked_mean(bound, response_mask))


def usable_ratios(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return where rho is a finite number: what is not can be weighed by no loss, and no criterion keeps it.

    Args:
        log_ratio: log rho from `masked_log_ratio`, shape (batch, response_length), nats.

    Returns:
        bool, same shape; True for log rho = -infinity, where rho is 0.
    """
    # "not above" would let NaN in
    return log_ratio.detach() <= math.log(torch.finfo(log_ratio.dtype).max)


def usable_sequences(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return the sequences of which every rho is a finite number: `usable_ratios` of all tokens.

    Args:
        log_ratio: log rho from `masked_log_ratio`, shape (batch, response_length), nats.

    Returns:
        bool, shape (batch,).
    """
    if log_ratio.shape[-1] == 0:
        return torch.ones(log_ratio.shape[:-1], dtype=torch.bool, device=log_ratio.device)
    # the largest is NaN if one is
    return usable_ratios(log_ratio.detach().amax(dim=-1))


def random_mask(
    has_tokens: torch.Tensor,
    acceptance: float,
    generator: torch.Generator | None = None,
    *,
    usable: torch.Tensor | None = None,
) -> SequenceMask:
    """Accept each sequence with one probability whatever its divergence: the control of an honest comparison.

    Args:
        has_tokens: bool, shape (batch,).
        acceptance: probability to accept, 0 to 1, for example the rate of the mask that is compared with.
        generator: source of randomness on the device of `has_tokens`; None for torch's default.
        usable: bool, shape (batch,): False where every criterion rejects, and so does the coin; None for all.

    Returns:
        The decision; its only reason is `random`.

    Raises:
        ValueError: if `acceptance` is not within 0 and 1.
    """
    if not 0.0 <= acceptance <= 1.0:
        raise ValueError(f"acceptance: got {acceptance}; allowed: 0 to 1; give the rate of the mask to compare with")
    drawn = torch.rand(has_tokens.shape, generator=generator, device=has_tokens.device)
    rejected = has_tokens & (drawn >= acceptance)
    if usable is not None:
        rejected = rejected | (has_tokens & ~usable)
    return SequenceMask(has_tokens & ~rejected, {"random": rejected}, torch.zeros_like(has_tokens), has_tokens)
