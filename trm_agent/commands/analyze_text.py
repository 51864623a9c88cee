"""What `trm analyze` prints of thresholds and bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.trust_region.criterion_bounds import THETA
from trm_agent.trust_region.guarantee import of_selected

NOISE = 1e-9
"""Divergence, nats, that float32 log-probs of the same policy reach by rounding: (3e-5)^2 / 2 and less."""
UNSTABLE = {"max": 0.1, "avg": 0.002}
"""Criterion -> threshold, nats, that alone was unstable in the runs of arXiv 2512.23075."""


def as_text(result: Mapping[str, Any]) -> list[str]:
    """Return the results of `trm analyze` as lines for people, without its diagnostics.

    Args:
        result: see `analyze.run`.
    """
    first, last = result["steps"]
    lines = [
        f"{result['sequences']} sequences, {result['tokens']} tokens of the model, steps {first} to {last}"
        + (f", {result['dropped_nonfinite']} dropped (not finite)" if result["dropped_nonfinite"] else ""),
        f"The settings' mask{_instead(result)}: {100 * result['mask']['acceptance']:.1f} % accepted, "
        f"{100 * result['mask']['kept_tokens']:.1f} % of the tokens kept; rejected "
        + ", ".join(
            f"{100 * share:.1f} % by {name.removeprefix('rejected_by_')}"
            for name, share in result["mask"].items()
            if name.startswith("rejected_by_")
        ),
        *_thresholds(result),
        *_bounds(result),
        *_bound_of_criterion(result),
    ]
    counts = result["sampled_against_measured"]
    if counts:
        lines += [
            "",
            f"Max criterion at the run's threshold, sampled k2 against the measured KL: {counts['both_keep']} kept by "
            f"both, {counts['both_reject']} rejected by both, {counts['only_sampled_keeps']} kept by k2 alone, "
            f"{counts['only_sampled_rejects']} rejected by k2 alone",
        ]
    again = result["recomputed_from_distributions"]
    if again:
        told = (
            f"Recomputed from both engines' distributions, {again['tokens']} tokens: the logged KL differs by at most "
            f"{again['kl_difference']:.2g} nats, TV by {again['tv_difference']:.2g}; the chi2-KL bound is "
            f"{again['chi2_kl_exact']:.4g}, from the sampled tokens alone {again['chi2_kl_sampled']:.4g}"
        )
        if "outside_topk_interval" in again:
            told += f"; {again['outside_topk_interval']} lie outside of the interval from the rollout's top-K"
        lines.append(told)
    return [*lines, *_criteria(result["criteria"])]


def _thresholds(result: Mapping[str, Any]) -> list[str]:
    if result["target_acceptance"] is None:
        return []
    lines = [
        "",
        f"Criterion {result['criterion']} at other thresholds, divergences {result['estimator']}",
        f"  {'threshold':>10}  accepted   by length, shortest quarter to longest   reward kept / rejected",
    ]
    for point in result["curve"]:
        quarters = "  ".join(f"{100 * share:5.1f} %" for share in point["by_length"])
        mark = "*" if point["threshold"] == result["threshold_used"] else " "
        rewards = f"{_number(point['reward_kept'])} / {_number(point['reward_rejected'])}"
        lines.append(
            f" {mark}{point['threshold']:>10.3g}   {100 * point['acceptance']:5.1f} %   {quarters}      {rewards}"
        )
    # the paper's are of a KL
    unstable = math.inf if result["without_kl"] else UNSTABLE.get(result["criterion"], math.inf)
    target, told = result["target_acceptance"], "  * the run's own" if result["threshold_used"] else ""
    return [*lines, told, "", _threshold_told(target, result["recommended_threshold"], unstable)]


def _criteria(criteria: Sequence[Mapping[str, Any]]) -> list[str]:
    if not criteria:
        return []
    columns = {
        "acceptance": "sequences",
        "tokens": "tokens",
        "tokens_positive": "A > 0",
        "tokens_negative": "A < 0",
        "tokens_longest": "longest 1/4",
    }
    lines = ["", "What each criterion keeps: sequences with a token, tokens, and tokens by sign and length", ""]
    lines.append(f"  {'criterion':<18}{'thresholds':<16}" + "".join(f"{head:>13}" for head in columns.values()))
    for kept in criteria:
        thresholds = ", ".join(f"{value:g}" for value in kept["thresholds"].values())
        shares = "".join(f"{_percent(kept[name]):>13}" for name in columns)
        lines.append(f"  {kept['criterion']:<18}{thresholds:<16}{shares}")
    return lines


def _instead(result: Mapping[str, Any]) -> str:
    own, shown = result["run_criterion"], result["mask_criterion"]
    return "" if own in (None, shown) else f" ({shown} in place of the run's {own})"


def _threshold_told(target: float, threshold: float, unstable: float) -> str:
    if threshold < NOISE:
        return (
            f"For an acceptance of {100 * target:.0f} %: nothing to choose. Divergences up to {threshold:.2g} are "
            "rounding of float32: both policies are the same here"
        )
    told = f"For an acceptance of {100 * target:.0f} %: threshold {threshold:.3g}"
    if threshold <= unstable:
        return told
    return (
        f"{told}. That is no trust region any more: alone, {unstable:g} was unstable in the paper's runs. "
        "Find what drives the policies apart first (docs/choosing_a_threshold.md)"
    )


def _bounds(result: Mapping[str, Any]) -> list[str]:
    mask, lines = result["mask"], [""]
    if result["target_acceptance"] is not None:
        lines.append(f"  {'error bound of the sampled contexts':<40}{'all':>12}{'at that threshold':>19}")
        for name, value in result["bounds_recommended"].items():
            lines.append(f"  {name:<40}{mask[name]:>12.4g}{value:>19.4g}")
        lines.append("  (not a proof: an observed maximum is not the maximum over all reachable contexts)")
    for name in ("bound_chi2_kl", "bound_stop"):
        if name in mask:
            lines.append(f"  {name:<40}{mask[name]:>12.4g}   {_interval(mask, name)}; docs/math.md")
    if "bound_chi2_kl" in mask:
        lines.append(
            f"  (the last two: for sequences of up to {_longest(result['longest_response'], mask['horizon'])})"
        )
    if result["selected_by"]:
        lines.append(f"  {of_selected(result['selected_by'])}")
    return lines


def _interval(mask: Mapping[str, float], name: str) -> str:
    if f"{name}_low" not in mask:
        return "no interval: all of one prompt"
    return f"90 % interval {mask[f'{name}_low']:.4g} to {mask[f'{name}_high']:.4g}"


def _longest(possible: int | None, sampled: float) -> str:
    if possible is not None and possible >= sampled:
        return f"{possible} tokens, data.max_response_length of the run"
    return f"{sampled:.0f} tokens, the longest here; data.max_response_length of its run is not known"


def _bound_of_criterion(result: Mapping[str, Any]) -> list[str]:
    bound, target = result["bound_of_criterion"], result["target_acceptance"]
    if bound is None:
        why = "".join(f": {told}" for told in result["without_kl"])
        return ["", f"No bound of its own is known for the criterion {result['criterion']}{why}"]
    values = []
    if bound["used"] is not None:
        values.append(f"{bound['used']:.4g} at the run's threshold" + "s" * (target is None))
    if target is not None:
        values.append(f"{bound['recommended']:.4g} at the threshold for {100 * target:.0f} %")
    lines = [
        "",
        f"Bound of the criterion {result['criterion']} (ours), T = {bound['horizon']}: {', '.join(values)}",
        f"  = {bound['equation']}, if {bound['premise']}",
    ]
    if bound["policy"] != THETA:
        lines.append(f"  on the error of {bound['policy']}; theta is apart from it")
        lines.append("  by at most the share of its sequences that meet a context outside (docs/math.md)")
        lines.append(f"  T: sequences of up to {_longest(result['longest_response'], bound['horizon'])}")
    return [*lines, *([f"  {bound['lost']}"] if bound["lost"] else [])]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
