"""The tensors of a batch that a mask and its statistics read: handed on together and cut into rows together."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch

from trm_agent.core.divergences import KL_ESTIMATES, token_divergence
from trm_agent.core.masks import Interval, usable_ratios
from trm_agent.core.reductions import count


@dataclass(frozen=True)
class DivergenceBounds:
    """Certified bounds on each token's divergences, as the trainer's engine measures them. All of one shape."""

    kl_lower: torch.Tensor
    """Least KL(roll || theta), nats."""
    kl_upper: torch.Tensor
    """Largest KL(roll || theta), nats; equal to `kl_lower` where both whole distributions are known."""
    tv_lower: torch.Tensor
    """Least total variation."""
    tv_upper: torch.Tensor
    """Largest total variation."""

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "DivergenceBounds":
        """Apply a function to each of the bounds."""
        return DivergenceBounds(*(change(values) for values in self.named().values()))

    def named(self) -> dict[str, torch.Tensor]:
        """Name the bounds as a dump names its columns."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def of_batch(self, log_ratio: torch.Tensor, *, known: bool, replayed: bool = False) -> "BatchDivergences":
        """Make them the divergences of a batch.

        Args:
            log_ratio: log rho from `masked_log_ratio`, shape (batch, response_length), nats.
            known: whether lower and upper bounds are equal.
            replayed: whether both policies are those on recorded sets: a token without an upper bound is one whose set
                may be larger than its record, and its rho is of two policies on different sets.
        """
        kl = Interval.known(self.kl_upper) if known else Interval(self.kl_lower, self.kl_upper)
        tv = Interval.known(self.tv_upper) if known else Interval(self.tv_lower, self.tv_upper)
        unknown = without_bound(kl) if replayed else None
        if unknown is not None:
            # what no loss can weigh is rejected by either bound
            unknown &= usable_ratios(log_ratio)
        return BatchDivergences(kl, kl, tv, torch.expm1(log_ratio), unknown_ratio=unknown)


def without_bound(kl: Interval) -> torch.Tensor | None:
    """Return the tokens whose KL has no upper bound; None where every token has one.

    One that is infinite by its lower bound too is known.

    Args:
        kl: of the tokens, nats.

    Returns:
        bool, the shape of the bounds; on a device never None for an interval, since to ask would be to wait.
    """
    if kl.is_known:
        return None
    # a lower bound that is NaN is no finite one
    unknown = kl.upper.isposinf() & (kl.lower < torch.inf)
    return None if unknown.device.type == "cpu" and not bool(unknown.any()) else unknown


@dataclass(frozen=True)
class BatchDivergences:
    """The divergences of a batch's tokens, each of shape (batch, response_length)."""

    kl_for_max: Interval
    """Divergence that the max criterion compares, nats."""
    kl_for_avg: Interval
    """Divergence that the average criterion compares, nats."""
    tv: Interval
    """Total variation, 0 to 1; |rho - 1| / 2 where it is sampled, whose expectation it is."""
    ratio_deviation: torch.Tensor
    """rho - 1 of the sampled tokens."""
    sampled: bool = False
    """Whether they are estimated from the sampled tokens alone."""
    unknown_ratio: torch.Tensor | None = None
    """bool: tokens of whose rho nothing is known either, since more could be drawn than was recorded; None: none."""

    def rows(self, rows: slice | torch.Tensor) -> "BatchDivergences":
        """Cut out some of the sequences."""
        return replace(
            self,
            kl_for_max=self.kl_for_max.rows(rows),
            kl_for_avg=self.kl_for_avg.rows(rows),
            tv=self.tv.rows(rows),
            ratio_deviation=self.ratio_deviation[rows],
            unknown_ratio=None if self.unknown_ratio is None else self.unknown_ratio[rows],
        )

    def at_bound(self, name: str) -> "BatchDivergences":
        """Take one bound of each interval, `lower` or `upper`, for its value."""
        kl_for_max, kl_for_avg, tv = (
            Interval.known(getattr(interval, name)) for interval in (self.kl_for_max, self.kl_for_avg, self.tv)
        )
        return replace(self, kl_for_max=kl_for_max, kl_for_avg=kl_for_avg, tv=tv)


def sampled_divergences(log_ratio: torch.Tensor, max_estimator: str, avg_estimator: str) -> BatchDivergences:
    """Estimate the divergences from the sampled tokens.

    Args:
        log_ratio: log rho from `masked_log_ratio`, shape (batch, response_length), nats.
        max_estimator: names the divergence of the max criterion, see `token_divergence`.
        avg_estimator: names that of the average criterion.

    Returns:
        The divergences, without a graph.
    """
    log_ratio = log_ratio.detach()
    # the most expensive pass over the batch, so computed once
    deviation = torch.expm1(log_ratio)

    def measured(name: str) -> Interval:
        return Interval.known(deviation - log_ratio if name == "k3" else token_divergence(log_ratio, name))

    for_max = measured(max_estimator)
    for_avg = for_max if avg_estimator == max_estimator else measured(avg_estimator)
    return BatchDivergences(for_max, for_avg, _SampledTv(deviation), deviation, sampled=True)


class _SampledTv(Interval):
    """|rho - 1| / 2, computed when it is first looked at: most decisions need none."""

    ratio_deviation: torch.Tensor

    def __init__(self, ratio_deviation: torch.Tensor) -> None:
        object.__setattr__(self, "ratio_deviation", ratio_deviation)

    @cached_property
    def lower(self) -> torch.Tensor:  # type: ignore[override]
        return self.ratio_deviation.abs().div_(2)

    @property
    def upper(self) -> torch.Tensor:  # type: ignore[override]
        return self.lower


@dataclass(frozen=True)
class TokenBatch:
    """A batch after masking, before a decision. Tensors are (batch, response_length) unless it says otherwise."""

    log_ratio: torch.Tensor
    """log rho from `masked_log_ratio`, 0 where the mask is False, nats."""
    rollout_log_probs: torch.Tensor
    """Log-probs of the policy that sampled, nats."""
    advantages: torch.Tensor
    """Advantages, finite everywhere."""
    response_mask: torch.Tensor
    """bool: sampled by the model."""
    measured: BatchDivergences | None = None
    """Measured divergences, 0 where the mask is False; None: estimated from the sampled tokens."""
    log_weight: torch.Tensor | None = None
    """Log of the weight that the loss truncates, 0 where the mask is False, nats; None: it is rho."""
    max_estimator: str = "k2"
    """Estimator of the max criterion's divergence where none is measured."""
    avg_estimator: str = "k3"
    """Estimator of the average criterion's divergence where none is measured."""
    lags: torch.Tensor | None = None
    """Versions between the policy that sampled a token and the one that the step began with, 0 or more, -1 on tokens
    that the model did not sample; None: all of one policy."""
    prompt_lengths: torch.Tensor | None = None
    """Tokens before the response, shape (batch,); None where not known, and nothing is measured by depth."""
    groups: torch.Tensor | None = None
    """int64, shape (batch,): equal for the sequences of one prompt; None where each is a draw of its own."""
    start_log_ratio: torch.Tensor | None = None
    """log rho of the trainer's policy before the step's first update, 0 where the mask is False, nats; None: not
    known."""
    decided: torch.Tensor | None = None
    """bool, shape (batch,): decisions that were made on all sequences of the update at once, True on those that stay;
    None: none were."""

    @cached_property
    def divergences(self) -> BatchDivergences:
        """The measured divergences, else the estimated ones."""
        if self.measured is not None:
            return self.measured
        return sampled_divergences(self.log_ratio, self.max_estimator, self.avg_estimator)

    @property
    def unknown_ratio(self) -> torch.Tensor | None:
        """See `BatchDivergences.unknown_ratio`."""
        return None if self.measured is None else self.measured.unknown_ratio

    @property
    def compares_kl(self) -> bool:
        """Whether kl_for_max is a KL, measured or estimated, and its threshold one in nats."""
        return not self.divergences.sampled or self.max_estimator in KL_ESTIMATES

    @cached_property
    def lengths(self) -> torch.Tensor:
        """T: tokens of the model, shape (batch,)."""
        return count(self.response_mask).long()

    def rows(self, rows: slice | torch.Tensor) -> "TokenBatch":
        """Cut out some of the sequences."""
        return replace(
            self,
            log_ratio=self.log_ratio[rows],
            rollout_log_probs=self.rollout_log_probs[rows],
            advantages=self.advantages[rows],
            response_mask=self.response_mask[rows],
            measured=None if self.measured is None else self.measured.rows(rows),
            log_weight=None if self.log_weight is None else self.log_weight[rows],
            lags=None if self.lags is None else self.lags[rows],
            prompt_lengths=None if self.prompt_lengths is None else self.prompt_lengths[rows],
            groups=None if self.groups is None else self.groups[rows],
            start_log_ratio=None if self.start_log_ratio is None else self.start_log_ratio[rows],
            decided=None if self.decided is None else self.decided[rows],
        )

    def at_bound(self, name: str) -> "TokenBatch":
        """Take one bound of each divergence, `lower` or `upper`, for its value.

        At the lower one a token of whose ratio nothing is known is one on policy, rho = 1.
        """
        log_ratio, measured = self.log_ratio, self.divergences.at_bound(name)
        if name == "lower" and measured.unknown_ratio is not None:
            log_ratio = log_ratio.masked_fill(measured.unknown_ratio, 0.0)
            measured = replace(measured, unknown_ratio=None)
        return replace(self, log_ratio=log_ratio, measured=measured)
