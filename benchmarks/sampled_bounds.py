"""How often the chi2-KL bound, estimated from N sampled sequences, falls below the true error of the worst reward.

python -m benchmarks.sampled_bounds [--seed 0] [--samples 16 64 256] [--tokens 2 3 4 5 6]

Over random trees of 2 to 6 tokens, or of as many as are given, whose error is enumerated, by where the policies differ:
`trm_agent.core.chi2_bounds` from (rho - 1)^2 and k3, for each position and pooled, and the upper end of the pooled
form's interval. Beside them how often the largest KL of the sampled contexts is below that of all reachable ones, which
is what the bounds with a maximum need, and below half of it.
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

LENGTHS = range(2, 7)
# kinds of `random_policies`
GROUPS = {"everywhere": (0,), "everywhere, with zeros": (1,), "only after a rare first token": (2, 3)}


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


def rates(samples: list[int], seed: int, tokens: list[int]) -> dict[str, list[tuple[int, torch.Tensor]]]:
    """Return for each group, and each number of sequences, the number of trees and the rates of `failures`."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[list[torch.Tensor]]] = {name: [[] for _ in samples] for name in GROUPS}
    for size in SIZES:
        if size[1] not in tokens:
            continue
        roll, theta = random_policies(*size, number_of_trees(*size), generator)
        trees, kls = enumerate_trees(roll, theta), token_kls(roll, theta)
        kinds = torch.arange(len(trees.roll)) % 4
        for place, num in enumerate(samples):
            failed = failures(trees, draw(trees, kls, num, generator)).double()
            for name, group in GROUPS.items():
                found[name][place].append(failed[:, torch.isin(kinds, torch.tensor(group))])
    joined = {name: [torch.cat(parts, 1) for parts in of_group] for name, of_group in found.items()}
    return {name: [(values.shape[1], values.mean(1)) for values in of_group] for name, of_group in joined.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, nargs="+", default=[16, 64, 256], metavar="N")
    # of one token there is no error
    parser.add_argument("--tokens", type=int, nargs="+", default=list(LENGTHS), choices=LENGTHS, metavar="T")
    options = parser.parse_args()
    names = ("by position", "pooled", "upper end", "max KL above", "above twice")
    print("share of the trees in % with an estimate below the truth, from N sequences")
    for group, of_group in rates(options.samples, options.seed, options.tokens).items():
        print(f"\n{group}, {of_group[0][0]} trees\n{'N':>6}" + "".join(f"{name:>14}" for name in names))
        for num, (_, shares) in zip(options.samples, of_group, strict=True):
            print(f"{num:>6}" + "".join(f"{100 * share:>14.1f}" for share in shares.tolist()))


if __name__ == "__main__":
    main()
