"""The table of `staleness` on learning: with the mask and without, by age of the data."""

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.staleness_figures import (
    Measure,
    by_side,
    grid,
    mean_of,
    most_of,
    num_sequences,
    num_tokens,
    seconds_a_step,
    shown,
    weighted,
)
from benchmarks.staleness_job import Result

AGES = ("0", "1", "2", "3 or more")


def held_out(horizon: int, is_last: bool, result: Result) -> float | None:
    """Return the success on held-out tasks of a horizon, of the first validation or of the last."""
    name = f"env/val_success/h{horizon}"
    found = [row[name] for row in sorted(result.rows, key=lambda row: row["step"]) if row.get(name) is not None]
    # a single validation is one after training
    return found[-1] if found and is_last else found[0] if len(found) > 1 else None


def by_tokens(name: str, share: str) -> Callable[[Result], float | None]:
    """Return the mean over steps of a metric of a share of the tokens."""
    return partial(weighted, name, num_tokens, share=share)


def by_sequences(name: str, share: str) -> Callable[[Result], float | None]:
    """Return the mean over steps of a metric of a share of the sequences."""
    return partial(weighted, name, num_sequences, share=share)


def by_lag(lag: int) -> tuple[Measure, ...]:
    """Return the lines of the tokens of one lag; acceptance is that of the sequences whose oldest token has it."""
    name, of_tokens, of_sequences = f"lag {AGES[lag]}", f"trm/tokens_lag_{lag}", f"trm/sequences_lag_{lag}"
    return (
        Measure(f"{name}: share of tokens", partial(weighted, of_tokens, num_tokens)),
        Measure(f"{name}: acceptance", by_sequences(f"trm/acceptance_lag_{lag}", of_sequences)),
        Measure(f"{name}: tokens kept", by_tokens(f"trm/kept_tokens_lag_{lag}", of_tokens)),
        Measure(f"{name}: mean token KL, nats", by_tokens(f"trm/token_kl_mean_lag_{lag}", of_tokens), ".1e"),
    )


def by_span(span: int) -> tuple[Measure, ...]:
    """Return the lines of the sequences of one span of versions."""
    name, of_tokens, of_sequences = f"span {AGES[span]}", f"trm/tokens_span_{span}", f"trm/sequences_span_{span}"
    return (
        Measure(f"{name}: share of sequences", partial(weighted, of_sequences, num_sequences)),
        Measure(f"{name}: acceptance", by_sequences(f"trm/acceptance_span_{span}", of_sequences)),
        *(
            Measure(
                f"{name}: acceptance, A {sign} 0",
                by_sequences(f"trm/acceptance_{word}_span_{span}", f"trm/sequences_{word}_span_{span}"),
            )
            for sign, word in ((">", "positive"), ("<", "negative"))
        ),
        Measure(f"{name}: tokens kept", by_tokens(f"trm/kept_tokens_span_{span}", of_tokens)),
        Measure(f"{name}: mean token KL, nats", by_tokens(f"trm/token_kl_mean_span_{span}", of_tokens), ".1e"),
    )


MEASURES = (
    Measure("success, first 5 steps", partial(mean_of, "env/success", steps=slice(5))),
    Measure("success, last 5 steps", partial(mean_of, "env/success", steps=slice(-5, None))),
    *(
        Measure(f"held out, horizon {horizon}, {when}", partial(held_out, horizon, is_last))
        for horizon in (4, 8)
        for when, is_last in (("before", False), ("after", True))
    ),
    Measure("acceptance", partial(mean_of, "trm/acceptance")),
    Measure("largest token KL, nats", partial(most_of, "trm/token_kl_max"), ".1e"),
    Measure("largest gradient norm", partial(most_of, "actor/grad_norm"), ".2f"),
    Measure("seconds a step", seconds_a_step, ".2f"),
    *(measure for lag in range(len(AGES)) for measure in by_lag(lag)),
    *(measure for span in range(len(AGES)) for measure in by_span(span)),
)


def learning_table(results: Sequence[Result]) -> str:
    """Format learning by age of the data: a column a side, means over seeds with the least and the largest."""
    sides = by_side(results)
    lines = []
    for measure in MEASURES:
        values = [[measure.of(result) for result in runs] for runs in sides.values()]
        if any(value is not None and value != 0 for each in values for value in each):
            lines.append([measure.label, *(shown(each, measure.form) for each in values)])
    return grid(["", *(f"{side} ({len(runs)})" for side, runs in sides.items())], lines)
