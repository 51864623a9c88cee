"""Whether a mismatch grows with depth, whether it is as small as it should be, and what to check first if not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trm_agent.numerics.depth import Bin, by_depth
from trm_agent.numerics.disturbance import Beginning, beginning
from trm_agent.numerics.sampled import Sampled, joined
from trm_agent.trust_region.growth import (
    FLAT,
    GROWING,
    LEAST_TOKENS,
    ROUNDING,
    SHORT,
    STEEP,
    jackknife_error,
    kind_of,
    slopes,
)

JUMPS, HIGH, NOTHING = "jumps", "high", "nothing"
# tokens of a bin that tell of logits, for a slope
LEAST_TELLING = 50
# a bin jumps that exceeds all tokens before it so many times, by the mean of |d| and by the KL, which is about d^2 / 2
JUMP_MEAN, JUMP_KL = 3.0, 10.0
# nats, in float32: mean of |d|
FLOAT32_MEAN = 1e-4
# nats: the upper end of what is reported of dense models in half precision, "typically 1e-5 to 1e-3"; another limit in
# use, a mean e^|d| of 1.05 (docs/numerics.md), is reached above 1.2e-3 alone
HALF_KL, HALF_SOURCE = 1e-3, "https://lmsys.org/blog/2026-01-16-training-inference-mismatch"

CHECKS = {
    JUMPS: "what begins at that depth on one side alone: position ids of packed sequences, rope_parameters and "
    "max_position_embeddings, a sliding window, a cache block or a part of a prompt that the engine reads anew",
    GROWING: "what adds up over the context: number format of attention and of the key-value cache (kv_cache_dtype), "
    "then enable_prefix_caching=false and enable_chunked_prefill=false, then float32 on both sides",
    HIGH: "what every token passes: the same weights on both sides, temperature, number format of lm_head and "
    "log-softmax, vocab_size beyond the tokenizer's",
    SHORT: "nothing yet: more --tokens, or more --episodes",
}
# a fault may hide in what half precision costs anyway
IN_FLOAT32 = "the same with float32 on both sides, which shows faults that half precision hides"


@dataclass(frozen=True)
class Verdict:
    """What the bins of a pair say."""

    kind: str
    """`flat`, `growing`, `jumps`, `rounding` (a KL below 1e-9 in every bin) or `too short` (one bin)."""
    slope: float | None
    """Slope of log KL over log depth; None where it cannot be fitted."""
    slope_error: float | None
    """Its standard error, by the jackknife over episodes; None for fewer than three."""
    logits_slope: float | None
    """The same of the squared error of logits, at equal certainty of the tokens; None where too few tell of it."""
    starts_at: int | None
    """Depth at which it jumps, tokens."""
    ratio: float | None
    """How many times as far logits are apart right behind that depth as before it, where that alone tells the jump;
    infinite where they are equal before it."""
    is_high: bool
    """Whether it exceeds the limit for its number formats."""
    first_check: str
    """The first thing to check."""

    @property
    def is_healthy(self) -> bool:
        """Return True if nothing is to be checked."""
        return self.kind in (FLAT, ROUNDING) and not self.is_high


def verdict(episodes: Sequence[Sampled], whole: Bin, *, is_float32: bool) -> Verdict:
    """Judge a mismatch.

    It grows where the KL grows with depth, and the error of logits too: a KL alone also grows where tokens become less
    certain. Where the deepest bin holds too few tokens that tell of logits, the KL alone decides.

    Args:
        episodes: their sampled tokens, at least one episode.
        whole: all their tokens as one bin.
        is_float32: whether both sides compute in float32.
    """
    bins = _filled(episodes)
    slope, logits_slope = slope_of(bins), logits_slope_of(bins)
    jump, begins = jump_of(bins), _beginning(episodes)
    is_high = whole.mean > FLOAT32_MEAN if is_float32 else whole.kl > HALF_KL
    kind = kind_of(np.array([each.kl for each in bins]), slope)
    tells_to_the_end = bins[-1].num_telling >= LEAST_TELLING if bins else False
    if kind == GROWING and tells_to_the_end and logits_slope is not None and logits_slope < STEEP:
        kind = FLAT
    starts_at = None if kind == ROUNDING else _place(jump, begins)
    kind = kind if starts_at is None else JUMPS
    ratio = begins.ratio if kind == JUMPS and jump is None and begins is not None else None
    check = _first_check(kind, is_high, is_float32)
    return Verdict(kind, slope, _jackknife(episodes), logits_slope, starts_at, ratio, is_high, check)


def _first_check(kind: str, is_high: bool, is_float32: bool) -> str:
    if kind in (JUMPS, GROWING):
        return CHECKS[kind]
    if is_high:
        return CHECKS[HIGH] if is_float32 else f"{IN_FLOAT32}; then {CHECKS[HIGH]}"
    return CHECKS.get(kind, NOTHING)


def slope_of(bins: Sequence[Bin]) -> float | None:
    """Fit log KL = a + slope log depth by least squares, weighted by tokens.

    Returns:
        None for fewer than two bins, and where a KL is 0.
    """
    columns = (np.array(values) for values in zip(*((each.tokens, each.depth, each.kl) for each in bins), strict=True))
    slope = slopes(*columns) if bins else np.nan
    return None if np.isnan(slope) else float(slope)


def logits_slope_of(bins: Sequence[Bin]) -> float | None:
    """Fit log (error of logits)^2 = a + slope log depth, as `slope_of` fits the KL, weighted by the tokens that tell.

    Returns:
        None for fewer than two bins of `LEAST_TELLING` such tokens, and where an error is 0.
    """
    told = [(each.num_telling, each.depth, each.logits**2) for each in bins if each.logits is not None]
    columns = [np.array(values) for values in zip(*(row for row in told if row[0] >= LEAST_TELLING), strict=True)]
    slope = slopes(*columns) if columns else np.nan
    return None if np.isnan(slope) else float(slope)


def jump_of(bins: Sequence[Bin]) -> Bin | None:
    """Return the first bin that is many times all tokens before it, if all behind it are too; None without one."""
    for place in range(1, len(bins)):
        before, after = bins[:place], bins[place:]
        tokens = sum(each.tokens for each in before)
        mean = sum(each.mean * each.tokens for each in before) / tokens
        kl = sum(each.kl * each.tokens for each in before) / tokens
        if all(each.mean > JUMP_MEAN * mean and each.kl > JUMP_KL * kl for each in after):
            return bins[place]
    return None


def _place(jump: Bin | None, begins: Beginning | None) -> int | None:
    """Return the depth where a jump begins; None without one: a window tells it better than the bin that it is in."""
    if begins is not None and (jump is None or begins.depth < jump.stop):
        return begins.depth
    return None if jump is None else jump.start


def _beginning(episodes: Sequence[Sampled]) -> Beginning | None:
    together = joined(episodes)
    return beginning(together, [each.start for each in by_depth(together) if each.start])


def _filled(episodes: Sequence[Sampled]) -> list[Bin]:
    """Return the bins of all episodes that hold enough tokens."""
    return [each for each in by_depth(joined(episodes)) if each.tokens >= LEAST_TOKENS] if episodes else []


def _jackknife(episodes: Sequence[Sampled]) -> float | None:
    """Return the slope's standard error from the slopes without one episode each."""
    without = [slope_of(_filled([*episodes[:left], *episodes[left + 1 :]])) for left in range(len(episodes))]
    return jackknife_error([np.nan if slope is None else slope for slope in without])
