"""`trm analyze`: the effect of other thresholds on a dump of rollouts, and what the dump says of its run."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.settings import ESTIMATORS, TrmConfig
from trm_fields import refuse

ROLLOUTS = "rollouts"
NOISE = 1e-9
"""Divergence, nats, that float32 log-probs of the same policy reach by rounding: (3e-5)^2 / 2 and less."""
UNSTABLE = {"max": 0.1, "avg": 0.002}
"""Criterion -> threshold, nats, that alone was unstable in the runs of arXiv 2512.23075."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "analyze",
        help=summary,
        description="Recompute masks, bounds and diagnostics of a dump, without a model. A run writes one with "
        "actor_rollout_ref.actor.policy_loss.dump.every=N, into its folder's rollouts/.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm analyze runs/math_nano-seed0-001 --criterion max --target 0.9",
    )
    statistics = ", ".join(name for name, row in CRITERIA.items() if row.statistic)
    parser.add_argument("dump", type=Path, help="folder of a run or of a dump, or a file of one")
    parser.add_argument("--criterion", help=f"{statistics} (default: the run's own, else max)")
    parser.add_argument("--estimator", choices=ESTIMATORS, help="what divergences are made from (default: the run's)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other settings of the mask, e.g. criterion=both"
    )
    parser.add_argument(
        "--threshold", type=float, nargs="+", metavar="D", help="thresholds to try (default: the run's, and a grid)"
    )
    parser.add_argument("--target", type=float, default=0.9, help="acceptance whose threshold is told (0.9)")
    parser.add_argument(
        "--all-criteria", action="store_true", help="also what each criterion keeps, at the settings' thresholds"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Analyse a dump and print the result.

    Args:
        arguments: the parsed arguments.

    Returns:
        0.

    Raises:
        ValueError: the dump cannot be read, or an option does not fit it.
    """
    from trm_agent.commands import analyze_diagnostics as diagnostics
    from trm_agent.trust_region import analysis
    from trm_agent.trust_region.comparison import kept_by_criterion
    from trm_agent.trust_region.criterion_bounds import CRITERION_BOUNDS, criterion_bound
    from trm_agent.trust_region.dump import read_dump
    from trm_agent.trust_region.recomputation import recompute
    from trm_agent.trust_region.sampler_check import selection

    rollouts = arguments.dump / ROLLOUTS
    dump = read_dump(rollouts if rollouts.is_dir() else arguments.dump)
    settings = {**analysis.repeatable(dump.settings), **_assignments(arguments.set)}
    if arguments.estimator:
        settings["estimator"] = arguments.estimator
    trm = TrmConfig.from_mapping(settings)
    criterion = arguments.criterion or (trm.criterion if trm.criterion in analysis.STATISTICS else "max")
    batch = analysis.load(dump, trm)
    values = analysis.statistic(batch, criterion, trm)
    used = getattr(trm, analysis.threshold_field(criterion))
    thresholds = arguments.threshold or sorted({*analysis.grid(values), *([used] if used else [])})
    recommended = analysis.recommend(values, arguments.target)
    longest, known = int(batch.lengths.max()), CRITERION_BOUNDS.get(criterion)
    config = diagnostics.config_of(arguments.dump)
    possible = diagnostics.longest_response(config)
    mask = analysis.masked(batch, trm, possible)
    found = analysis.depth_growth(batch, trm), analysis.sampler_check(dump), selection(config)
    criteria = kept_by_criterion(batch, trm) if arguments.all_criteria else []
    result = {
        "sequences": len(values),
        "dropped_nonfinite": batch.num_dropped,
        "steps": [int(dump.step.min()), int(dump.step.max())],
        "tokens": int(batch.lengths.sum()),
        "criterion": criterion,
        "estimator": trm.estimator,
        "mask_criterion": trm.criterion,
        "run_criterion": dump.settings.get("criterion"),
        "threshold_used": used,
        "curve": [vars(point) for point in analysis.curve(batch, values, thresholds)],
        "target_acceptance": arguments.target,
        "recommended_threshold": recommended,
        "mask": mask,
        "longest_response": possible,
        "bounds_recommended": analysis.bounds_of(batch, values <= recommended, trm),
        "bound_of_criterion": known
        and {
            "equation": known.equation,
            "premise": known.premise,
            "horizon": longest,
            "used": criterion_bound(criterion, longest, used, trm),
            "recommended": criterion_bound(criterion, longest, recommended, trm),
        },
        "sampled_against_measured": analysis.disagreement(dump, trm),
        "recomputed_from_distributions": recompute(dump),
        "criteria": [vars(kept) for kept in criteria],
        **diagnostics.as_json(*found),
    }
    if arguments.json:
        print(json.dumps(_finite(result), indent=2, allow_nan=False))
    else:
        print("\n".join([_text(result), *diagnostics.as_text(mask, *found)]))
    return 0


def _assignments(texts: list[str]) -> dict[str, Any]:
    """Read FIELD=VALUE texts; a value is JSON, else text."""
    values: dict[str, Any] = {}
    for text in texts:
        name, found, value = text.partition("=")
        if not found:
            refuse("--set", text, "FIELD=VALUE", "give e.g. --set criterion=both avg_token_kl=0.002")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def _text(result: dict[str, Any]) -> str:
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
    target = result["target_acceptance"]
    lines += [
        "  * the run's own" if result["threshold_used"] else "",
        "",
        _threshold_told(target, result["recommended_threshold"], result["criterion"]),
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
    return "\n".join([*lines, *_criteria(result["criteria"])])


def _criteria(criteria: list[dict[str, Any]]) -> list[str]:
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


def _instead(result: dict[str, Any]) -> str:
    own, shown = result["run_criterion"], result["mask_criterion"]
    return "" if own in (None, shown) else f" ({shown} in place of the run's {own})"


def _threshold_told(target: float, threshold: float, criterion: str) -> str:
    if threshold < NOISE:
        return (
            f"For an acceptance of {100 * target:.0f} %: nothing to choose. Divergences up to {threshold:.2g} are "
            "rounding of float32: both policies are the same here"
        )
    told = f"For an acceptance of {100 * target:.0f} %: threshold {threshold:.3g}"
    if threshold <= UNSTABLE.get(criterion, math.inf):
        return told
    return (
        f"{told}. That is no trust region any more: alone, {UNSTABLE[criterion]:g} was unstable in the paper's runs. "
        "Find what drives the policies apart first (docs/choosing_a_threshold.md)"
    )


def _bounds(result: dict[str, Any]) -> list[str]:
    lines = ["", f"  {'error bound of the sampled contexts':<40}{'all':>12}{'at that threshold':>19}"]
    for name, value in result["bounds_recommended"].items():
        lines.append(f"  {name:<40}{result['mask'][name]:>12.4g}{value:>19.4g}")
    lines.append("  (not a proof: an observed maximum is not the maximum over all reachable contexts)")
    mask = result["mask"]
    for name in ("bound_chi2_kl", "bound_stop"):
        if name in mask:
            ends = f"{mask[f'{name}_low']:.4g} to {mask[f'{name}_high']:.4g}"
            lines.append(f"  {name:<40}{mask[name]:>12.4g}   90 % interval {ends}; docs/math.md")
    if "bound_chi2_kl" in mask:
        longest = _longest(result["longest_response"], mask["horizon"])
        lines.append(f"  (the last two: for sequences of up to {longest})")
    return lines


def _longest(possible: int | None, sampled: float) -> str:
    if possible is not None and possible >= sampled:
        return f"{possible} tokens, data.max_response_length of the run"
    return f"{sampled:.0f} tokens, the longest here; data.max_response_length of its run is not known"


def _bound_of_criterion(result: dict[str, Any]) -> list[str]:
    bound = result["bound_of_criterion"]
    if bound is None:
        return ["", f"No bound of its own is known for the criterion {result['criterion']}"]
    values = [f"{bound['recommended']:.4g} at the threshold for {100 * result['target_acceptance']:.0f} %"]
    if bound["used"] is not None:
        values.insert(0, f"{bound['used']:.4g} at the run's threshold")
    return [
        "",
        f"Bound of the criterion {result['criterion']} (ours), T = {bound['horizon']}: {', '.join(values)}",
        f"  = {bound['equation']}, if {bound['premise']}",
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _finite(value: Any) -> Any:
    """Replace infinities, which JSON lacks, by null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
