"""How often the 95 % intervals of `trm eval` hold a known truth, beside the textbook's intervals.

python -m benchmarks.coverage [--repeats 4000] [--seed 0]

On simulated tasks. Each setting is that many evaluations, and each evaluation draws its own model: a mean success
rate from a band, how much the tasks differ, and for comparisons how much better the second checkpoint is. Aim: from 93
to 97 % in every setting, apart from the last study: at a single rate the coverage of any interval jumps where successes
are few, since of 40 tasks 1 or 2 succeed and not 1.5. The textbook's interval is m +- 1.96 s / sqrt(n) over the tasks'
means, within strata, or over their differences.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from trm_agent.evaluate.paired import compare
from trm_agent.evaluate.statistics import Floats, Z, mean_interval, stratum_indices, variance_of_mean

SIZES = (20, 40, 64, 100, 200, 400)
BANDS = ((0.05, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 0.95))
SAMPLES = (1, 5, 16)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
RESAMPLES = 1000


class Evaluation(NamedTuple):
    """What was seen of one evaluation, and the truth behind it."""

    values: Floats
    """Success rate of each task; for a comparison that of the first checkpoint."""
    strata: list[int] | None
    truth: float
    second: Floats | None = None


def one_horizon(rng: np.random.Generator, tasks: int, samples: int, band: tuple[float, float]) -> Evaluation:
    """Tasks of one kind: a mean from the band, rates Beta(m c, (1 - m) c) with c from 0.5 (nearly 0 or 1) to 50."""
    mean = rng.uniform(*band)
    return Evaluation(_play(rng, np.full(tasks, mean), samples), None, mean)


def many_horizons(rng: np.random.Generator, per_horizon: int, num_horizons: int, samples: int) -> Evaluation:
    """As many tasks at each of several horizons; success falls with the horizon as a logistic curve."""
    half, slope = rng.uniform(-1, num_horizons), rng.uniform(0.5, 2.5)
    means = np.clip(1 / (1 + np.exp(slope * (np.arange(num_horizons) - half))), 1e-4, 1 - 1e-4)
    strata = np.repeat(np.arange(num_horizons), per_horizon)
    return Evaluation(_play(rng, means[strata], samples), strata.tolist(), float(means.mean()))


def two_checkpoints(rng: np.random.Generator, tasks: int, samples: int, band: tuple[float, float]) -> Evaluation:
    """A second checkpoint with odds that differ by up to e for all tasks and by a normal draw for each."""
    mean, spread, gain, own = rng.uniform(*band), rng.uniform(0.3, 3), rng.uniform(-1, 1), rng.uniform(0, 1)
    # a logistic curve of a normal variable has about this mean
    centre = np.log(mean / (1 - mean)) * np.sqrt(1 + spread**2 / 2.9)
    first = centre + spread * rng.normal(size=tasks)
    second = first + gain + own * rng.normal(size=tasks)
    truth = _expected(centre + gain, np.hypot(spread, own)) - _expected(centre, spread)
    seen = [rng.binomial(samples, _logistic(side)) / samples for side in (first, second)]
    return Evaluation(seen[0], None, truth, seen[1])


STUDIES: dict[str, tuple[Callable[..., Evaluation], list[tuple]]] = {
    "one horizon: tasks, samples, rates": (
        one_horizon,
        list(itertools.product(SIZES, SAMPLES, BANDS)),
    ),
    "several horizons: tasks of each, horizons, samples": (
        many_horizons,
        list(itertools.product((5, 10, 20, 64, 100), (4, 5), SAMPLES)),
    ),
    "two checkpoints: tasks, samples, rates": (
        two_checkpoints,
        list(itertools.product(SIZES[:-1], SAMPLES, BANDS)),
    ),
    "one horizon, a single rate: tasks, samples, rate": (
        one_horizon,
        list(itertools.product(SIZES, SAMPLES, [(rate, rate) for rate in (0.02, 0.05, 0.1, 0.5)])),
    ),
}


def coverage(
    draw: Callable[..., Evaluation], setting: Sequence, repeats: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Share of the evaluations whose interval holds the truth: ours, the textbook's."""
    hits = np.zeros(2)
    for repeat in range(repeats):
        seen = draw(rng, *setting)
        if seen.second is None:
            ours = mean_interval(seen.values, seen.strata)
        else:
            ours = compare(seen.values, seen.second, seed=repeat, num_resamples=RESAMPLES)
        assert ours.low is not None
        assert ours.high is not None
        low, high = _textbook(seen)
        hits += ours.low <= seen.truth <= ours.high, low <= seen.truth <= high
    return float(hits[0]) / repeats, float(hits[1]) / repeats


def _textbook(seen: Evaluation) -> tuple[float, float]:
    values = seen.values if seen.second is None else seen.second - seen.values
    half = Z * np.sqrt(variance_of_mean(values, stratum_indices(seen.strata or [0] * len(values))))
    return float(values.mean() - half), float(values.mean() + half)


def _play(rng: np.random.Generator, means: Floats, samples: int) -> Floats:
    alike = np.exp(rng.uniform(np.log(0.5), np.log(50)))
    return rng.binomial(samples, rng.beta(means * alike, (1 - means) * alike)) / samples


def _logistic(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


def _expected(centre: float, spread: float) -> float:
    """Mean of the logistic function over a normal variable."""
    return float(WEIGHTS @ _logistic(centre + spread * NODES) / WEIGHTS.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print(f"{options.repeats} evaluations of each setting, seed {options.seed}; ours, then the textbook's")
    for title, (draw, settings) in STUDIES.items():
        bar = tqdm(settings, desc=title.split(":")[0], leave=False)
        found = np.array([coverage(draw, setting, options.repeats, rng) for setting in bar])
        print(f"\n{title}")
        for setting, (ours, textbook) in zip(settings, found, strict=True):
            print(f"  {'  '.join(str(part) for part in setting):<28}{100 * ours:6.1f} %{100 * textbook:6.1f} %")
        for name, share in zip(("ours", "textbook"), found.T, strict=True):
            inside = int(((share >= 0.93) & (share <= 0.97)).sum())
            low, mean, high = 100 * np.array([share.min(), share.mean(), share.max()])
            print(f"  {name}: {mean:.1f} %, {low:.1f} to {high:.1f} %; 93 to 97 % in {inside} of {len(share)} settings")


if __name__ == "__main__":
    main()
