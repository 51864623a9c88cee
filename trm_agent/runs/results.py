"""Results of a run: summary.json, the curves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trm_agent.runs.endings.keeping import lacks_best
from trm_agent.runs.folder import SUMMARY_FILE, read_metrics, write_atomically
from trm_agent.runs.history import history
from trm_agent.runs.screen import VALIDATION_FAILURES, validation_rates
from trm_agent.runs.sessions import end_session, session_seconds
from trm_agent.runs.stored_config import CONFIG_FILE, read_config

CURVES_FILE = "curves.png"
COUNT = "env/val_num_episodes/h"


def finish(
    run_dir: Path,
    seed: int,
    trained_horizons: Sequence[int],
    now: float,
    samples: int = 1,
    keep_best: str | None = None,
) -> dict[str, Any]:
    """Write the curves and, last, summary.json: its presence says that the run is complete.

    Args:
        now: the time at which the session ends, seconds since the epoch.
        samples: number of episodes that a validation plays of each task.
        keep_best: `run.keep_best`.

    Returns:
        The summary: `success.before` and `success.after` (horizon -> rate), `val_episodes` (the same for the number of
        episodes behind a rate), `val_samples` (episodes per task), `trained_horizons`, `trust_region`,
        `steps`, `wall_s` and `sessions` (all commands that worked on the run), `seed`, `lacks` (what could not be
        summarised, with the reason), `held_out` (False if validation had training's only task, None if that is not
        known); `sandbox`, the means of confinement, if programs ran on this machine.
    """
    end_session(run_dir, now)
    seconds = session_seconds(run_dir)
    rows = read_metrics(run_dir)
    told = history(run_dir)
    figures = summarise(rows, seed, trained_horizons, sum(seconds), told.get("start", 0))
    figures["lacks"] += lacks_best(run_dir, keep_best)
    summary = {
        **figures,
        "val_samples": samples,
        "sessions": len(seconds),
        "held_out": is_held_out(run_dir),
        **told,
        **sandbox_section(),
    }
    draw_curves(rows, run_dir / CURVES_FILE, summary["held_out"])
    write_atomically(run_dir / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
    return summary


def is_held_out(run_dir: Path) -> bool | None:
    """Return False if the run's environment has one task, which is trained and validated on; None if nobody knows."""
    from trm_agent.tasks import has_one_task

    if not (run_dir / CONFIG_FILE).exists():
        return True
    has_one = has_one_task(read_config(run_dir)["env"])
    return None if has_one is None else not has_one


def sandbox_section() -> dict[str, Any]:
    """Return the section of a summary on the local sandbox of this process; empty if there is none."""
    from trm_envs.sandbox.shared import isolation

    return {"sandbox": found} if (found := isolation()) else {}


def summarise(
    rows: Sequence[dict[str, Any]], seed: int, trained_horizons: Sequence[int], wall_s: float, start: int = 0
) -> dict[str, Any]:
    """Return the summary of a run from the rows of its metrics.jsonl; without a validation its rates are absent.

    Args:
        start: the step after which the run began.
    """
    rows_of = {row["step"]: row for row in rows if VALIDATION_FAILURES in row}
    validations = {step: validation_rates(row) for step, row in rows_of.items()}
    steps = max((row["step"] for row in rows), default=0)
    return {
        "success": {
            "before": {str(horizon): rate for horizon, rate in validations.get(start, {}).items()},
            "after": {str(horizon): rate for horizon, rate in validations.get(steps, {}).items()},
        },
        "val_episodes": {
            name: {key.removeprefix(COUNT): int(number) for key, number in row.items() if key.startswith(COUNT)}
            for name, row in (("before", rows_of.get(start, {})), ("after", rows_of.get(steps, {})))
        },
        "trained_horizons": sorted({int(horizon) for horizon in trained_horizons}),
        "trust_region": _trust_region(rows),
        "steps": steps,
        "wall_s": round(wall_s, 1),
        "seed": seed,
        "lacks": _lacks(validations, start, steps),
    }


def _lacks(validations: Mapping[int, Mapping[int, float]], start: int, steps: int) -> list[str]:
    """Return the parts that a summary lacks, each with its reason."""
    lacks = []
    for name, step, why in (
        ("success.before", start, "no validation before the first step (trainer.val_before_train)"),
        ("success.after", steps, "no validation after the last step (trainer.test_freq)"),
    ):
        if not validations.get(step):
            nothing = "its validation could play no episode (env/val_infrastructure_failures in metrics.jsonl)"
            lacks.append(f"{name}: {nothing if step in validations else why}")
    return lacks


def _trust_region(rows: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Return the means over the steps of the mask's metrics; None for a loss without a mask."""
    masked = [row for row in rows if row.get("trm/acceptance") is not None]
    if not masked:
        return None
    reasons = [key for key in masked[0] if key.startswith("trm/rejected_by_")]
    return {
        key.removeprefix("trm/"): round(sum(row[key] for row in masked) / len(masked), 4)
        for key in ("trm/acceptance", *reasons)
    }


def draw_curves(rows: Sequence[dict[str, Any]], path: Path, held_out: bool | None = True) -> None:
    """Draw success, acceptance and token KL over the steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    _line(left, rows, "env/success", "training batch", color="0.7", linewidth=1)
    horizons = sorted({horizon for row in rows for horizon in validation_rates(row)})
    kind = {True: "held out, ", False: "not held out, ", None: ""}[held_out]
    for horizon in horizons:
        _line(
            left,
            rows,
            f"env/val_success/h{horizon}",
            f"{kind}horizon {horizon}",
            marker="o",
            markersize=3,
        )
    left.set(title="Success", xlabel="step", ylim=(0, 1))
    _legend_or(left, "no episode was scored")
    for quartile in range(1, 5):
        key = f"trm/acceptance_length_q{quartile}"
        _line(middle, rows, key, f"length quartile {quartile}", linewidth=1, alpha=0.7)
    _line(middle, rows, "trm/acceptance", "all sequences", color="black")
    # all sequences may be accepted at every step
    middle.set(title="Acceptance", xlabel="step", ylim=(0, 1.05))
    _legend_or(middle, "no sequence was masked by this loss")
    _line(right, rows, "trm/token_kl_mean_k3", "mean token KL (k3)")
    _line(right, rows, "trm/token_kl_k2_max", "largest token KL (k2)")
    right.set(title="Divergence from the rollout policy, nats", xlabel="step")
    if right.lines:
        right.set_yscale("log")
    _legend_or(right, "not measured by this loss")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _legend_or(axes: Any, why: str) -> None:
    """Draw the legend, or say why a panel is empty."""
    if axes.lines:
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color="0.4")


def _line(axes: Any, rows: Sequence[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)
