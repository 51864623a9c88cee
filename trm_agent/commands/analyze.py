"""`trm analyze`: the effect of other thresholds on a dump of rollouts, and what the dump says of its run."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.settings import ESTIMATORS, TrmConfig
from trm_fields import refuse

if TYPE_CHECKING:
    from trm_agent.trust_region.analysis import Batch

ROLLOUTS = "rollouts"
WITH_CURVE = tuple(name for name, row in CRITERIA.items() if row.statistic)
"""Criteria that compare one number of each sequence with a threshold."""
AS_SET = tuple(name for name, row in CRITERIA.items() if row.parts or row.without_premise)
"""Criteria that are analysed at the settings' thresholds alone."""
TARGET = 0.9


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
    parser.add_argument("dump", type=Path, help="folder of a run or of a dump, or a file of one")
    parser.add_argument(
        "--criterion",
        help=f"{', '.join(WITH_CURVE)} (default: the run's own, else max); {', '.join(AS_SET)}: at the settings' "
        "thresholds, without a curve",
    )
    parser.add_argument("--estimator", choices=ESTIMATORS, help="what divergences are made from (default: the run's)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other settings of the mask, e.g. criterion=both"
    )
    parser.add_argument(
        "--threshold", type=float, nargs="+", metavar="D", help="thresholds to try (default: the run's, and a grid)"
    )
    parser.add_argument("--target", type=float, help=f"acceptance whose threshold is told ({TARGET})")
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
    from trm_agent.commands.analyze_text import as_text
    from trm_agent.trust_region import analysis
    from trm_agent.trust_region.comparison import kept_by_criterion
    from trm_agent.trust_region.criterion_bounds import THETA, criterion_bound, known_bound
    from trm_agent.trust_region.dump import read_dump
    from trm_agent.trust_region.guarantee import lost_guarantee, told_without_kl
    from trm_agent.trust_region.recomputation import recompute
    from trm_agent.trust_region.sampler_check import selection

    rollouts = arguments.dump / ROLLOUTS
    dump = read_dump(rollouts if rollouts.is_dir() else arguments.dump)
    settings = {**analysis.repeatable(dump.settings), **_assignments(arguments.set)}
    if arguments.estimator:
        settings["estimator"] = arguments.estimator
    trm = TrmConfig.from_mapping(settings)
    criterion = arguments.criterion or (trm.criterion if trm.criterion in WITH_CURVE else "max")
    if criterion not in (*WITH_CURVE, *AS_SET):
        refuse("criterion", criterion, ", ".join((*WITH_CURVE, *AS_SET)), "choose one of them")
    if criterion in AS_SET:
        trm = replace(trm, criterion=criterion)
    batch = analysis.load(dump, trm)
    used = getattr(trm, analysis.threshold_field(criterion))
    curve = _curve(arguments, batch, criterion, trm)
    longest, known = int(batch.lengths.max()), known_bound(criterion, trm)
    config = diagnostics.config_of(arguments.dump)
    possible = diagnostics.longest_response(config)
    # of a policy of its own the bound holds without a premise, so also for branches that no sequence met
    horizon = longest if known is None or known.policy == THETA else max(longest, possible or 0)
    mask = analysis.masked(batch, trm, possible)
    found = analysis.depth_growth(batch, trm), analysis.sampler_check(dump), selection(config)
    criteria = kept_by_criterion(batch, trm) if arguments.all_criteria else []
    result = {
        "sequences": len(batch.lengths),
        "dropped_nonfinite": batch.num_dropped,
        "steps": [int(dump.step.min()), int(dump.step.max())],
        "tokens": int(batch.lengths.sum()),
        "criterion": criterion,
        "estimator": trm.estimator,
        "mask_criterion": trm.criterion,
        "run_criterion": dump.settings.get("criterion"),
        "threshold_used": used,
        **curve,
        "mask": mask,
        "longest_response": possible,
        "selected_by": found[-1],
        "bound_of_criterion": known
        and {
            "equation": known.equation,
            "premise": known.premise,
            "policy": known.policy,
            "lost": lost_guarantee(trm, diagnostics.loss_aggregation(config)) if criterion in AS_SET else None,
            "horizon": horizon,
            "used": criterion_bound(criterion, horizon, used, trm),
            "recommended": criterion_bound(criterion, horizon, curve["recommended_threshold"], trm),
        },
        "without_kl": told_without_kl(criterion, trm),
        "sampled_against_measured": analysis.disagreement(dump, trm),
        "recomputed_from_distributions": recompute(dump),
        "criteria": [vars(kept) for kept in criteria],
        **diagnostics.as_json(*found),
    }
    if arguments.json:
        print(json.dumps(_finite(result), indent=2, allow_nan=False))
    else:
        print("\n".join([*as_text(result), *diagnostics.as_text(mask, *found)]))
    return 0


def _curve(arguments: argparse.Namespace, batch: Batch, criterion: str, trm: TrmConfig) -> dict[str, Any]:
    """Return what a criterion does at other thresholds, and the one for the target; without a curve, nothing of it."""
    from trm_agent.trust_region import analysis

    if criterion in AS_SET:
        for flag, value in (("--threshold", arguments.threshold), ("--target", arguments.target)):
            if value is not None:
                because = f"but criterion {criterion} compares no single number of a sequence with a threshold"
                refuse(flag, value, "left out", "set its thresholds with --set", because=because)
        return {"curve": [], "target_acceptance": None, "recommended_threshold": None, "bounds_recommended": {}}
    values = analysis.statistic(batch, criterion, trm)
    used = getattr(trm, analysis.threshold_field(criterion))
    thresholds = arguments.threshold or sorted({*analysis.grid(values), *([used] if used else [])})
    target = TARGET if arguments.target is None else arguments.target
    recommended = analysis.recommend(values, target)
    return {
        "curve": [vars(point) for point in analysis.curve(batch, values, thresholds)],
        "target_acceptance": target,
        "recommended_threshold": recommended,
        "bounds_recommended": analysis.bounds_of(batch, values <= recommended, trm),
    }


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


def _finite(value: Any) -> Any:
    """Replace infinities, which JSON lacks, by null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
