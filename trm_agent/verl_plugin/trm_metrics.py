"""Carries the diagnostics of the `trm` policy loss through verl's metric reduction and turns them into `trm/...`.

verl averages whatever a policy loss returns, which is wrong for extremes and, across unequal micro-batches, for ratios.
So the loss reports sums, counts and extremes to a collector, the engine hands them to verl with the right aggregation,
and `finalize_trm_metrics` divides in the driver.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from typing import Any, Literal

import torch
from verl.utils.metric import AggregationType, Metric

from trm_agent.config import FIELD_PATH
from trm_agent.core.diagnostics import MaskDiagnostics
from trm_agent.core.histograms import divergence_quantile, kept_fraction_by_quartile

logger = logging.getLogger("trm_agent")

Aggregation = Literal["sum", "min", "max"]

SUM_PREFIX = "trm/_sum/"
# verl's driver takes np.max / np.min over mini-batches of every key that contains "max" / "min" and np.mean of the
# rest, so the name of a sum must contain neither and the name of an extreme must contain its own.
SUM_NAMES = {
    "num_sequences": "sequences",
    "num_accepted": "accepted",
    "num_rejected_by_max": "over_peak",
    "num_rejected_by_avg": "over_average",
    "num_nonfinite": "nonfinite",
    "num_tokens": "tokens",
    "num_truncated_tokens": "truncated_tokens",
    "sum_token_kl_k3": "token_kl_k3",
    "sum_ppl_gap": "ppl_gap",
    "length_counts": "length",
    "accepted_length_counts": "accepted_length",
    "divergence_counts": "divergence",
}
EXTREMES: dict[str, Aggregation] = {"ratio_min": "min", "ratio_max": "max", "token_kl_k2_max": "max"}

_COLLECTED: ContextVar[dict[str, Metric] | None] = ContextVar("trm_metrics", default=None)


def trm_metrics(diagnostics: MaskDiagnostics, *, dp_size: int = 1) -> dict[str, tuple[float, Aggregation]]:
    """Bring the diagnostics of a micro-batch to the host, in one transfer, with how each value aggregates.

    Args:
        diagnostics: of one micro-batch on one rank.
        dp_size: data-parallel ranks; verl *averages* sums over ranks, so every sum is scaled by it.

    Returns:
        Metric name -> (value, aggregation over micro-batches and ranks).
    """
    tensors = [getattr(diagnostics, field.name).reshape(-1) for field in fields(diagnostics)]
    values = iter(torch.cat(tensors).tolist())
    pieces: dict[str, tuple[float, Aggregation]] = {}
    for field, tensor in zip(fields(diagnostics), tensors, strict=True):
        numbers = [next(values) for _ in range(tensor.numel())]
        if field.name in EXTREMES:
            pieces[f"trm/{field.name}"] = (numbers[0], EXTREMES[field.name])
            continue
        name = SUM_PREFIX + SUM_NAMES[field.name]
        if getattr(diagnostics, field.name).ndim == 0:
            pieces[name] = (numbers[0] * dp_size, "sum")
        else:
            pieces |= {f"{name}_{index:03d}": (number * dp_size, "sum") for index, number in enumerate(numbers)}
    return pieces


@contextmanager
def collect_metrics() -> Iterator[dict[str, Metric]]:
    """Catch the metrics of every `trm` loss computed inside the block, with the aggregation that each needs.

    The block may span one micro-batch or several. The caller adds the collected metrics to verl's, for example
    `output["metrics"].update(collected)`.

    Yields:
        Metric name -> verl Metric, filled as losses are computed; empty if none is.
    """
    collected: dict[str, Metric] = {}
    token = _COLLECTED.set(collected)
    try:
        yield collected
    finally:
        _COLLECTED.reset(token)


def report_metrics(pieces: Mapping[str, tuple[float, Aggregation]]) -> dict[str, float]:
    """Hand metrics to the active collector.

    Args:
        pieces: see `trm_metrics`.

    Returns:
        What is left for verl to average: nothing if there is a collector; else the sums, whose ratios survive an
        average over micro-batches of one rank count, and not the extremes, which do not.
    """
    collected = _COLLECTED.get()
    if collected is None:
        return {name: value for name, (value, aggregation) in pieces.items() if aggregation == "sum"}
    for name, (value, aggregation) in pieces.items():
        collected.setdefault(name, Metric(AggregationType(aggregation))).append(value)
    return {}


def finalize_trm_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the summed pieces of a step by the final `trm/...` metrics; a no-op if there are none.

    Args:
        metrics: the step's metrics after verl's reduction; the keys of the pieces may carry a prefix like `actor/`.

    Returns:
        A new dict: other metrics as they were, the pieces gone, `trm/...` as documented in docs/metrics.md. A value
        that does not exist (no sequence, no finite divergence) is absent.
    """
    final: dict[str, Any] = {}
    sums: dict[str, float] = {}
    for key, value in metrics.items():
        _, found, name = key.rpartition(SUM_PREFIX)
        if found:
            sums[name] = float(value)
        elif any(key == f"trm/{extreme}" or key.endswith(f"/trm/{extreme}") for extreme in EXTREMES):
            if math.isfinite(value):
                final["trm/" + key.rpartition("/")[2]] = float(value)
        else:
            final[key] = value
    if not sums:
        return dict(metrics)
    final["trm/num_sequences"] = sums["sequences"]
    if sums["sequences"] > 0:
        final |= _ratios(sums)
        if sums["accepted"] == 0:
            logger.warning(
                "trm: no sequence of this step was accepted (outside max: %.0f %%, outside average: %.0f %%), so "
                "the policy got no gradient. Raise the thresholds of %s, or look for a mismatch between trainer and "
                "rollout in trm/token_kl_mean_k3 and trm/ppl_gap.",
                100 * final["trm/rejected_by_max"],
                100 * final["trm/rejected_by_avg"],
                FIELD_PATH,
            )
    return final


def _ratios(sums: Mapping[str, float]) -> dict[str, float]:
    num_sequences = sums["sequences"]
    ratios = {
        "trm/acceptance": sums["accepted"] / num_sequences,
        "trm/rejected_by_max": sums["over_peak"] / num_sequences,
        "trm/rejected_by_avg": sums["over_average"] / num_sequences,
        "trm/nonfinite": sums["nonfinite"] / num_sequences,
        "trm/all_rejected": float(sums["accepted"] == 0),
    }
    if sums["tokens"] > 0:
        ratios["trm/token_kl_mean_k3"] = sums["token_kl_k3"] / sums["tokens"]
        ratios["trm/ratio_truncated"] = sums["truncated_tokens"] / sums["tokens"]
        ratios["trm/ppl_gap"] = sums["ppl_gap"] / (num_sequences - sums["nonfinite"])
    by_length = kept_fraction_by_quartile(_bins(sums, "length"), _bins(sums, "accepted_length"))
    ratios |= {f"trm/acceptance_length_q{group}": fraction for group, fraction in enumerate(by_length, start=1)}
    by_divergence = _bins(sums, "divergence")
    ratios |= {f"trm/seq_max_kl_p{p}": divergence_quantile(by_divergence, p / 100) for p in (50, 90, 99)}
    return ratios


def _bins(sums: Mapping[str, float], name: str) -> list[float]:
    # The bins of "length" and of "accepted_length" are told apart by what stands before the last underscore.
    return [sums[key] for key in sorted(sums) if key.rpartition("_")[0] == name]
