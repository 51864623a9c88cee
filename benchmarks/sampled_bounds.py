"""How often the chi2-KL bound, estimated from N sampled sequences, falls below the true error of the worst reward.

python -m benchmarks.sampled_bounds [--seed 0] [--samples 16 64 256]

Over random trees of 2 to 6 tokens whose error is enumerated: `trm_agent.core.chi2_bounds` from (rho - 1)^2 and k3, for
each position and pooled, and the upper end of the pooled form's interval. Beside them how often the largest KL of the
sampled contexts is below that of all reachable ones, which is what the bounds with a maximum need.
"""

import argparse
from typing import NamedTuple

import torch

from tests.core.trees import (
    ROUNDING,
    SIZES,
    Enumeration,
    Policy,
    enumerate_trees,
    number_of_trees,
    random_policies,
    token_kls,
)
from trm_agent.core.bootstrap import interval, resampled_means
from trm_agent.core.chi2_bounds import chi2_kl_bound, pooled_chi2_kl_bound
from trm_agent.core.divergences import token_kl_k3


class Sample(NamedTuple):
    """Sequences of the rollout policy, shape (trees, sequences, T)."""

    chi2: torch.Tensor
    """(rho - 1)^2."""
    k3: torch.Tensor
    kl: torch.Tensor
    """Exact KL of the contexts."""


def draw(trees: Enumeration, kls: Policy, num: int, generator: torch.Generator) -> Sample:
    """Sample sequences of each tree."""
    leaves = trees.roll.shape[1]
    chosen = torch.multinomial(trees.roll, num, replacement=True, generator=generator)
    ratios = torch.stack([rho.gather(1, chosen) for rho in trees.ratios], -1)
    kl = torch.stack([kl.gather(1, chosen // (leaves // kl.shape[1])) for kl in kls], -1)
    return Sample((ratios - 1).square(), token_kl_k3(ratios.log()), kl)


def failures(trees: Enumeration, sample: Sample) -> torch.Tensor:
    """Return whether each estimate is below the truth, shape (5, trees)."""
    horizon, error = trees.horizon, trees.worst_error()
    places = torch.arange(horizon, dtype=torch.float64)
    # an infinite k3 of the first token delays nothing
    delayed = torch.where(places > 0, sample.k3 * places, 0.0).sum(-1)
    rows = torch.stack([sample.chi2.sum(-1), delayed], -1)
    resampled = resampled_means(rows)
    flat = pooled_chi2_kl_bound(horizon, resampled[..., 0].flatten(), resampled[..., 1].flatten())
    estimates = (
        chi2_kl_bound(sample.chi2.mean(1), sample.k3.mean(1)),
        pooled_chi2_kl_bound(horizon, *rows.mean(1).unbind(-1)),
        interval(flat.view(resampled.shape[:-1]))[1],
    )
    sampled_max = sample.kl.flatten(1).amax(1)
    too_small = [error > estimate + ROUNDING for estimate in estimates]
    return torch.stack([*too_small, trees.max_kl > sampled_max * (1 + 1e-9), trees.max_kl > 2 * sampled_max])


def rates(samples: list[int], seed: int) -> tuple[int, list[torch.Tensor]]:
    """Return the number of trees, and for each number of sequences the rates of `failures`."""
    generator, num_trees = torch.Generator().manual_seed(seed), 0
    totals = [torch.zeros(5, dtype=torch.float64) for _ in samples]
    for size in SIZES:
        if size[1] < 2:  # one token: no error
            continue
        roll, theta = random_policies(*size, number_of_trees(*size), generator)
        trees, kls = enumerate_trees(roll, theta), token_kls(roll, theta)
        num_trees += len(trees.roll)
        for total, num in zip(totals, samples, strict=True):
            total += failures(trees, draw(trees, kls, num, generator)).double().sum(1)
    return num_trees, [total / num_trees for total in totals]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, nargs="+", default=[16, 64, 256], metavar="N")
    options = parser.parse_args()
    num_trees, found = rates(options.samples, options.seed)
    names = ("by position", "pooled", "upper end", "max KL above", "above twice")
    print(f"{num_trees} trees; share in % with an estimate below the truth, from N sequences")
    print(f"{'N':>6}" + "".join(f"{name:>14}" for name in names))
    for num, shares in zip(options.samples, found, strict=True):
        print(f"{num:>6}" + "".join(f"{100 * share:>14.1f}" for share in shares.tolist()))


if __name__ == "__main__":
    main()
