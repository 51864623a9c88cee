"""Measure coverage and width of the 95 % intervals of `trm eval` against a known truth, beside other intervals.

python -m benchmarks.coverage [--repeats 2000] [--seed 0] [--study WORD]

On simulated tasks. Each setting is that many evaluations. In the first studies each evaluation draws its own model: a
mean success rate from a band, how much the tasks differ, and for comparisons how much better the second checkpoint is.
In a mixture a share of the tasks is of a rare kind, such as impossible, and the others have one rate.

A setting passes with a coverage of at least 93 % as counted (nothing is allowed for the simulation's standard error,
0.6 % with 2,000 evaluations: settings within two of them of 93 % are counted beside it), a test that rejects a true
hypothesis in at most 5 % (plus three standard errors) and, where the interval used before (`wilson`, `bootstrap`)
covers 93 %, a mean width of at most 1.5 times that interval's. A setting that fails is one of
those that `trm eval` marks beside the interval; `marked` is the share of the evaluations in which it does. The
textbook's interval is m +- 1.96 s / sqrt(n) over the tasks' means, within strata, or over their differences.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.coverage_baselines import bootstrap, textbook, wilson
from trm_agent.evaluate.statistics.intervals import WIDEST, Floats, interval_limits, pass_at_k, pass_hat_k
from trm_agent.evaluate.statistics.paired import RARE_TASKS, compare, difference_limits

SIZES = (20, 40, 64, 100, 200, 400)
BANDS = ((0.05, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 0.95))
SAMPLES = (1, 5, 16)
SHARES = (0.01, 0.05, 0.1)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
RESAMPLES = 500
LEAST = 0.93
WIDER = 1.5
LEVEL = 0.05


class Evaluations(NamedTuple):
    """The observations of many evaluations, with the truth behind each."""

    values: Floats
    """A figure of each task in [0, 1], shape (evaluations, tasks); for a comparison that of the first checkpoint."""
    groups: np.ndarray
    """Stratum of each task."""
    truth: Floats
    second: Floats | None = None


class Result(NamedTuple):
    """Results of one setting; `before` is the interval used before."""

    ours: float
    before: float
    textbook: float
    width: float
    """Mean width over that of the interval used before."""
    noted: float
    """Share of the evaluations whose interval is marked."""
    size: float
    """Share of the evaluations whose test rejects at 5 %; NaN where there is no test or the hypothesis is not true."""
    repeats: int

    @property
    def fails(self) -> str:
        """Return the faults of the setting; empty without any."""
        faults = {
            "coverage": self.ours < LEAST,
            "width": self.width > WIDER and self.before >= LEAST,
            "size": self.size > LEVEL + 3 * (LEVEL * (1 - LEVEL) / self.repeats) ** 0.5,
        }
        return " and ".join(name for name, is_fault in faults.items() if is_fault)

    @property
    def error(self) -> float:
        """Standard error of a coverage of 93 %."""
        return float((LEAST * (1 - LEAST) / self.repeats) ** 0.5)

    @property
    def is_close(self) -> bool:
        """Whether other evaluations of the setting may well fall on the other side of 93 %."""
        return abs(self.ours - LEAST) < 2 * self.error


def one_horizon(rng: np.random.Generator, repeats: int, tasks: int, samples: int, band: Sequence[float]) -> Evaluations:
    """Tasks of one kind: a mean from the band, rates Beta(m c, (1 - m) c) with c from 0.5 (nearly 0 or 1) to 50."""
    mean = rng.uniform(*band, size=repeats)
    rates = _beta(rng, np.repeat(mean[:, None], tasks, axis=1))
    return Evaluations(rng.binomial(samples, rates) / samples, np.zeros(tasks, dtype=np.int64), mean)


def many_horizons(rng: np.random.Generator, repeats: int, per_horizon: int, horizons: int, samples: int) -> Evaluations:
    """As many tasks at each of several horizons; success falls with the horizon as a logistic curve."""
    half, slope = rng.uniform(-1, horizons, size=(repeats, 1)), rng.uniform(0.5, 2.5, size=(repeats, 1))
    means = np.clip(1 / (1 + np.exp(slope * (np.arange(horizons) - half))), 1e-4, 1 - 1e-4)
    rates = _beta(rng, np.repeat(means, per_horizon, axis=1))
    groups = np.repeat(np.arange(horizons), per_horizon)
    return Evaluations(rng.binomial(samples, rates) / samples, groups, means.mean(axis=1))


def mixture(
    rng: np.random.Generator, repeats: int, tasks: int, samples: int, share: float, rate: float, rare: float = 0.0
) -> Evaluations:
    """A share of the tasks has the success rate `rare`, by default 0, the others have `rate`."""
    rates = np.where(rng.random((repeats, tasks)) < share, rare, rate)
    truth = np.full(repeats, share * rare + (1 - share) * rate)
    return Evaluations(rng.binomial(samples, rates) / samples, np.zeros(tasks, dtype=np.int64), truth)


def passes(
    rng: np.random.Generator, repeats: int, tasks: int, samples: int, k: int, share: float, figure: str
) -> Evaluations:
    """pass@k (`at`) or pass^k (`hat`): a share of the tasks is impossible, the others have Beta(2, 2) rates."""
    impossible = rng.random((repeats, tasks)) < share
    rates = np.where(impossible, 0.0, rng.beta(2, 2, size=(repeats, tasks)))
    # the k-th moment of Beta(2, 2) is 6 / ((k + 2) (k + 3)); failures are Beta(2, 2) too
    moment = 6 / ((k + 2) * (k + 3))
    truth = (1 - share) * (moment if figure == "hat" else 1 - moment)
    formula = pass_hat_k if figure == "hat" else pass_at_k
    successes = rng.binomial(samples, rates).ravel()
    values = formula(np.full(successes.shape, samples), successes, k).reshape(repeats, tasks)
    return Evaluations(values, np.zeros(tasks, dtype=np.int64), np.full(repeats, truth))


def two_checkpoints(rng: np.random.Generator, repeats: int, tasks: int, samples: int, band: Sequence) -> Evaluations:
    """A second checkpoint with odds that differ by up to e for all tasks and by a normal draw for each."""
    mean, spread = rng.uniform(*band, size=(repeats, 1)), rng.uniform(0.3, 3, size=(repeats, 1))
    gain, own = rng.uniform(-1, 1, size=(repeats, 1)), rng.uniform(0, 1, size=(repeats, 1))
    # a logistic curve of a normal variable has about this mean
    centre = np.log(mean / (1 - mean)) * np.sqrt(1 + spread**2 / 2.9)
    first = centre + spread * rng.normal(size=(repeats, tasks))
    second = first + gain + own * rng.normal(size=(repeats, tasks))
    truth = _expected(centre + gain, np.hypot(spread, own)) - _expected(centre, spread)
    seen = [rng.binomial(samples, _logistic(side)) / samples for side in (first, second)]
    return Evaluations(seen[0], np.zeros(tasks, dtype=np.int64), truth, seen[1])


def two_mixtures(
    rng: np.random.Generator, repeats: int, tasks: int, samples: int, share: float, kind: str
) -> Evaluations:
    """Two checkpoints and a share of rare tasks; see `RARE` for the rates."""
    first, second, *rare = RARE[kind]
    is_rare = rng.random((repeats, tasks)) < share
    seen = [
        rng.binomial(samples, np.where(is_rare, odd, rate)) / samples
        for rate, odd in zip((first, second), rare, strict=True)
    ]
    truth = (1 - share) * (second - first) + share * (rare[1] - rare[0])
    return Evaluations(seen[0], np.zeros(tasks, dtype=np.int64), np.full(repeats, truth), seen[1])


RARE = {
    "equal": (0.9, 0.9, 0, 0),
    "better": (0.8, 0.9, 0, 0),
    "breaks": (0.9, 0.9, 0.9, 0),
    "unlocks": (0.8, 0.9, 0, 0.9),
}
"""Success of the first and the second checkpoint on most tasks, and on the rare ones."""
Draw = Callable[..., Evaluations]
MIXED_SIZES = (20, 25, 26, 27, 30, 40, 50, 64, 100, 200, 250, 400)
"""With sizes at which a tenth, a twentieth or a hundredth of the tasks are missing in about 7 % of the evaluations."""
MIXTURES = list(itertools.product(MIXED_SIZES, (4, 16, 64), SHARES, (0.9, 0.5)))
STUDIES: dict[str, tuple[Draw, list[tuple]]] = {
    "one horizon: tasks, samples, rates": (one_horizon, list(itertools.product(SIZES, SAMPLES, BANDS))),
    "several horizons: tasks of each, horizons, samples": (
        many_horizons,
        list(itertools.product((5, 10, 20, 64, 100), (4, 5), SAMPLES)),
    ),
    "two checkpoints: tasks, samples, rates": (two_checkpoints, list(itertools.product(SIZES[:-1], SAMPLES, BANDS))),
    "one horizon, a single rate: tasks, samples, rate": (
        one_horizon,
        list(itertools.product(SIZES, SAMPLES, [(rate, rate) for rate in (0.02, 0.05, 0.1, 0.5)])),
    ),
    "impossible tasks: tasks, samples, their share, rate of the others": (mixture, MIXTURES),
    "solved tasks: tasks, samples, their share, rate of the others, 1": (
        mixture,
        list(itertools.product((20, 64, 400), (4, 64), SHARES, (0.1, 0.5), (1.0,))),
    ),
    "equal tasks: tasks, samples, share 0, rate": (
        mixture,
        list(itertools.product(SIZES, (4, 16, 64), (0.0,), (0.9, 0.5))),
    ),
    "pass@k and pass^k, impossible tasks: tasks, samples, k, share, figure": (
        passes,
        [
            (tasks, samples, k, share, figure)
            for tasks, (samples, k), share, figure in itertools.product(
                (20, 64, 400), ((4, 4), (16, 4), (16, 16), (64, 16)), (0.0, *SHARES), ("at", "hat")
            )
        ],
    ),
    "two checkpoints, rare tasks: tasks, samples, share, kind": (
        two_mixtures,
        list(itertools.product((20, 64, 200), (1, 4, 64), SHARES, RARE)),
    ),
}


def measure(draw: Draw, setting: Sequence, repeats: int, rng: np.random.Generator) -> Result:
    """Coverage and mean width of the intervals in one setting."""
    seen = draw(rng, repeats, *setting)
    size = np.nan
    if seen.second is None:
        low, high, ratios = interval_limits(seen.values, seen.groups)
        before, plain = wilson(seen.values, seen.groups), textbook(seen.values, seen.groups)
        noted = float(np.mean(ratios > WIDEST))
    else:
        differences = seen.second - seen.values
        low, high = difference_limits(differences, seen.groups)
        mean = differences.mean(axis=1)
        noted = float(np.mean(np.minimum(mean - low, high - mean) < RARE_TASKS / differences.shape[1]))
        before = bootstrap(differences, seen.groups, rng, RESAMPLES)
        plain = textbook(differences, seen.groups)
        if draw is two_mixtures and setting[-1] == "equal":
            pairs = enumerate(zip(seen.values, seen.second, strict=True))
            size = float(np.mean([compare(*pair, None, seed, RESAMPLES).p_value <= 0.05 for seed, pair in pairs]))
    covered = [float(np.mean((b <= seen.truth) & (seen.truth <= t))) for b, t in ((low, high), before, plain)]
    width = float(np.mean(high - low) / np.mean(before[1] - before[0]))
    return Result(*covered, width, noted, size, repeats)


def _beta(rng: np.random.Generator, means: Floats) -> Floats:
    alike = np.exp(rng.uniform(np.log(0.5), np.log(50), size=(len(means), 1)))
    return rng.beta(means * alike, (1 - means) * alike)


def _logistic(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


def _expected(centres: Floats, spreads: Floats) -> Floats:
    """Mean of the logistic function over a normal variable, one for each row."""
    return np.asarray(_logistic(centres + spreads * NODES) @ WEIGHTS / WEIGHTS.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", default="", help="only the studies whose title holds this")
    options = parser.parse_args()
    print(f"{options.repeats} evaluations of each setting, seed {options.seed}")
    print("coverage of ours, of the interval used before, of the textbook's; width over before; marked; test's size")
    for title, (draw, settings) in STUDIES.items():
        if options.study not in title:
            continue
        print(f"\n{title}")
        rng = np.random.default_rng(options.seed)
        bar = tqdm(settings, desc=title.split(":")[0], leave=False)
        results = [_printed(setting, measure(draw, setting, options.repeats, rng)) for setting in bar]
        failed = sum(bool(result.fails) for result in results)
        for name in ("ours", "before", "textbook"):
            shares = 100 * np.array([getattr(result, name) for result in results])
            print(f"  {name}: {shares.mean():.1f} %, {shares.min():.1f} to {shares.max():.1f} %")
        fair = [result.width for result in results if result.before >= LEAST]
        print(f"  width over before, where that covers: {np.mean(fair):.2f}, at most {max(fair):.2f}")
        close = sum(result.is_close for result in results)
        print(
            f"  {len(results) - failed} of {len(results)} settings pass; {close} within 2 standard errors "
            f"({100 * results[0].error:.1f} %) of {100 * LEAST:.0f} %"
        )


def _printed(setting: Sequence, result: Result) -> Result:
    size = "" if np.isnan(result.size) else f"  size {100 * result.size:.1f} %"
    print(
        f"  {'  '.join(map(str, setting)):<30}{100 * result.ours:6.1f} %{100 * result.before:6.1f} %"
        f"{100 * result.textbook:6.1f} %  x{result.width:.2f}{100 * result.noted:5.0f} %{size}"
        f"  {'FAIL: ' + result.fails if result.fails else 'PASS'}",
        flush=True,
    )
    return result


if __name__ == "__main__":
    main()
