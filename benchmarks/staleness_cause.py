"""The table of `staleness` on what learning from stale data hangs on: a line a side."""

import statistics
from collections.abc import Sequence
from functools import partial

from benchmarks.staleness_figures import Measure, by_side, grid, mean_of, most_of, shown, steps_of
from benchmarks.staleness_job import Result
from benchmarks.staleness_learning import held_out

# the rate is warm, and what is left of the schedule is more than half of it
HOT = slice(3, 10)
"""Steps 4 to 10."""


def lowest(width: int, result: Result) -> float | None:
    """Return the least mean success over as many steps in a row."""
    success = [row["env/success"] for row in steps_of(result) if row.get("env/success") is not None]
    windows = [success[start : start + width] for start in range(len(success) - width + 1)]
    return min((statistics.fmean(window) for window in windows), default=None)


MEASURES = (
    Measure("success, first 5 steps", partial(mean_of, "env/success", steps=slice(5)), ".0%"),
    Measure("lowest 3 in a row", partial(lowest, 3), ".0%"),
    Measure("last 5", partial(mean_of, "env/success", steps=slice(-5, None)), ".0%"),
    Measure("held out, horizon 4, before", partial(held_out, 4, False), ".0%"),
    Measure("after", partial(held_out, 4, True), ".0%"),
    Measure("horizon 8, after", partial(held_out, 8, True), ".0%"),
    Measure("kept in steps 4 to 10", partial(mean_of, "trm/acceptance", steps=HOT), ".0%"),
    Measure("of A > 0", partial(mean_of, "trm/acceptance_positive", steps=HOT), ".0%"),
    Measure("of A < 0", partial(mean_of, "trm/acceptance_negative", steps=HOT), ".0%"),
    Measure("of the longest quarter", partial(mean_of, "trm/acceptance_length_q4", steps=HOT), ".0%"),
    # above 0: what succeeded has become less likely since it was sampled
    Measure("-A(rho - 1) of A > 0 there", partial(mean_of, "trm/contribution_positive", steps=HOT), ".2f"),
    Measure("of what is kept", partial(mean_of, "trm/contribution_positive_masked", steps=HOT), ".2f"),
    Measure("mean token KL there, nats", partial(mean_of, "trm/token_kl_mean", steps=HOT), ".1e"),
    Measure("largest gradient norm", partial(most_of, "actor/grad_norm"), ".2f"),
)


def cause_table(results: Sequence[Result]) -> str:
    """Format success, what the mask keeps and how far the policy moves, means over seeds with least and largest."""
    lines = [
        [f"{side} ({len(runs)})", *(shown([measure.of(run) for run in runs], measure.form) for measure in MEASURES)]
        for side, runs in by_side(results).items()
    ]
    return grid(["", *(measure.label for measure in MEASURES)], lines)
