"""Small autoregressive trees: every expectation is a finite sum.

A tree has a vocabulary V and a horizon T; a policy is a list over depths t = 0..T-1 of tensors (batch, V^t, V). Leaves
are trajectories in lexicographic order, so a context's children are neighbours.

Sequences of different lengths are trees too: where the last token of the vocabulary ends one (`with_ends`), both
policies go on with that token for certain, so that nothing is added to any divergence.
"""

import functools
from dataclasses import asdict, dataclass

import torch

from trm_agent.core.bounds import adaptive_bound, error_bounds

Policy = list[torch.Tensor]
SIZES = [(vocabulary, horizon) for vocabulary in (2, 3, 4, 5) for horizon in (1, 2, 3, 4, 5, 6)]
ROUNDING = 1e-12


@dataclass
class Enumeration:
    roll: torch.Tensor  # probability of every trajectory, (batch, leaves)
    theta: torch.Tensor
    ratios: list[torch.Tensor]  # rho_t of every trajectory, T times (batch, leaves); 1 where roll cannot go
    first_order: torch.Tensor  # sum_t roll(y_<t) (theta - roll)(y_t | c_t) roll(y_>t | c_t, y_t), (batch, leaves)
    max_tv: torch.Tensor  # over every context that tokens of either policy lead to, (batch,)
    max_kl: torch.Tensor
    mean_tv: torch.Tensor  # Dbar_t, (batch, T)
    mean_kl: torch.Tensor  # E_roll[KL(c_t)], (batch, T)
    mean_chi2: torch.Tensor  # E_roll[chi2(c_t)], (batch, T)
    path_kl: torch.Tensor  # the largest sum_t KL(c_t) on a path of roll, (batch,)
    leaves_support: torch.Tensor  # whether theta has a token in reach that roll lacks, (batch,)

    @property
    def horizon(self) -> int:
        return self.mean_tv.shape[1]

    @property
    def seq_kl(self) -> torch.Tensor:
        return self.mean_kl.sum(1)

    @property
    def seq_chi2(self) -> torch.Tensor:
        return self.mean_chi2.sum(1)

    @property
    def delayed_kl(self) -> torch.Tensor:
        """E_roll[sum_t (t - 1) KL(c_t)]; a first token of infinite divergence delays nothing."""
        return (self.mean_kl[:, 1:] * torch.arange(1, self.horizon)).sum(1)

    @property
    def errors(self) -> torch.Tensor:
        """Return the contribution of each trajectory's reward to J(theta) - J(roll) - L'."""
        return self.theta - self.roll - self.first_order

    def worst_error(self) -> torch.Tensor:
        """|Error| of the reward that pays exactly where it hurts: the maximum over all rewards in [0, 1]."""
        return torch.maximum(self.errors.clamp(min=0).sum(-1), -self.errors.clamp(max=0).sum(-1))

    def bounds(self) -> dict[str, torch.Tensor]:
        """Every bound, from all divergences and from the KL divergences alone."""
        horizon, seq_tv = self.horizon, (self.roll - self.theta).abs().sum(-1) / 2
        full = error_bounds(horizon, self.max_kl, self.seq_kl, max_tv=self.max_tv, seq_tv=seq_tv, mean_tv=self.mean_tv)
        uniform = error_bounds(horizon, self.max_kl, self.seq_kl, max_tv=self.max_tv, seq_tv=seq_tv)
        kl_only = error_bounds(horizon, self.max_kl, self.seq_kl)
        return {
            **asdict(full),
            "adaptive_kl": adaptive_bound(self.mean_tv, horizon, max_kl=self.max_kl),
            "adaptive_tv": adaptive_bound(self.mean_tv, horizon, max_tv=self.max_tv),
            "adaptive_uniform": uniform.adaptive,
            **{f"{name}_from_kl": value for name, value in asdict(kl_only).items()},
        }


def enumerate_trees(roll: Policy, theta: Policy) -> Enumeration:
    batch, _, vocabulary = roll[0].shape
    p_roll = p_theta = torch.ones(batch, 1, dtype=torch.float64)
    reached, first_order = torch.ones(batch, 1, dtype=torch.bool), torch.zeros(batch, 1, dtype=torch.float64)
    max_tv = max_kl = torch.zeros(batch, dtype=torch.float64)
    path_kl = torch.zeros(batch, 1, dtype=torch.float64)
    leaves_support, mean_tv, mean_kl, mean_chi2, ratios = torch.zeros(batch, dtype=torch.bool), [], [], [], []

    def spread(contexts: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return (contexts.unsqueeze(-1) * tokens).flatten(1)

    for r, q in zip(roll, theta, strict=True):
        tv = (r - q).abs().sum(-1) / 2
        kl = torch.where(r > 0, r * (r.log() - q.log()), 0.0).sum(-1).clamp(min=0)
        max_tv = torch.maximum(max_tv, torch.where(reached, tv, 0.0).amax(-1))
        max_kl = torch.maximum(max_kl, torch.where(reached, kl, 0.0).amax(-1))
        chi2 = torch.where(r > 0, (q - r) ** 2 / r, torch.where(q > 0, torch.inf, 0.0)).sum(-1)
        mean_tv.append((p_roll * tv).sum(-1))
        mean_kl.append(torch.where(p_roll > 0, p_roll * kl, 0.0).sum(-1))
        mean_chi2.append(torch.where(p_roll > 0, p_roll * chi2, 0.0).sum(-1))
        path_kl = torch.where(p_roll > 0, path_kl + kl, 0.0).repeat_interleave(vocabulary, 1)
        leaves_support |= (reached.unsqueeze(-1) & (r == 0) & (q > 0)).flatten(1).any(-1)
        first_order = spread(first_order, r) + spread(p_roll, q - r)
        rho = torch.where(r > 0, q / r, 1.0).flatten(1)
        ratios = [ratio.repeat_interleave(vocabulary, 1) for ratio in ratios] + [rho]
        p_roll, p_theta = spread(p_roll, r), spread(p_theta, q)
        reached = (reached.unsqueeze(-1) & ((r > 0) | (q > 0))).flatten(1)
    path_kl = torch.where(p_roll > 0, path_kl, 0.0).amax(-1)
    means = [torch.stack(values, 1) for values in (mean_tv, mean_kl, mean_chi2)]
    return Enumeration(p_roll, p_theta, ratios, first_order, max_tv, max_kl, *means, path_kl, leaves_support)


def token_kls(roll: Policy, theta: Policy) -> list[torch.Tensor]:
    """KL(roll || theta) of every context, T times (batch, V^t)."""
    return [
        torch.where(r > 0, r * (r.log() - q.log()), 0.0).sum(-1).clamp(min=0) for r, q in zip(roll, theta, strict=True)
    ]


def random_policies(
    vocabulary: int,
    horizon: int,
    batch: int,
    generator: torch.Generator,
    *,
    ends: bool = False,
    theta_may_leave: bool = False,
) -> tuple[Policy, Policy]:
    """Pairs from nearly equal to nearly disjoint, of four kinds; with `ends` of sequences of different lengths.

    0: everywhere; 1: everywhere, with zeros; 2: only after a first token that roll hardly takes; 3: as 2, and every
    difference goes one way, so that they add up over the horizon.
    """

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    distance, sharpness = 10 ** (4.5 * uniform(batch, 1, 1) - 3.5), 3 * uniform(batch, 1, 1)
    kind = torch.arange(batch).view(-1, 1, 1) % 4
    favourite = torch.eye(vocabulary, dtype=torch.float64)[0]
    rare, raised = -8 * uniform(batch, 1, 1) * favourite, 5 * uniform(batch, 1, 1) * favourite
    roll, theta = [], []
    for depth in range(horizon):
        shape = batch, vocabulary**depth, vocabulary
        logits = sharpness * torch.randn(shape, generator=generator, dtype=torch.float64)
        noise = distance * torch.randn(shape, generator=generator, dtype=torch.float64)
        logits = torch.where((kind == 3) | ((kind == 2) & (depth == 0)), rare, logits)
        noise = torch.where((kind == 3) | ((kind == 2) & (depth == 0)), raised, noise)
        if depth > 0:
            elsewhere = torch.arange(shape[1]).view(1, -1, 1) * vocabulary >= shape[1]  # another first token than 0
            noise = torch.where((kind >= 2) & elsewhere, 0.0, noise)
        changed = logits + noise
        dropped = (kind == 1) & (uniform(*shape) < 0.3) & (changed < changed.amax(-1, keepdim=True))
        if theta_may_leave:
            lost = (kind == 1) & (uniform(*shape) < 0.3) & (logits < logits.amax(-1, keepdim=True))
        else:
            lost = dropped & (uniform(*shape) < 0.5)
        roll.append(logits.masked_fill(lost, -torch.inf).softmax(-1))
        theta.append(changed.masked_fill(dropped, -torch.inf).softmax(-1))
    return (with_ends(roll), with_ends(theta)) if ends else (roll, theta)


def has_ended(vocabulary: int, depth: int) -> torch.Tensor:
    """Whether a context holds the token that ends a sequence, the last of the vocabulary; bool, (V^depth,)."""
    ended = torch.zeros(1, dtype=torch.bool)
    for _ in range(depth):
        last = torch.arange(len(ended) * vocabulary) % vocabulary == vocabulary - 1
        ended = ended.repeat_interleave(vocabulary) | last
    return ended


def with_ends(policy: Policy) -> Policy:
    """Let the last token of the vocabulary end a sequence, at any depth."""
    vocabulary = policy[0].shape[-1]
    end = torch.eye(vocabulary, dtype=torch.float64)[-1]
    return [
        torch.where(has_ended(vocabulary, depth).view(1, -1, 1), end, tokens) for depth, tokens in enumerate(policy)
    ]


def lengths_with_ends(vocabulary: int, horizon: int) -> torch.Tensor:
    """Tokens of every trajectory up to the one that ends it, which counts, at most T; (leaves,)."""
    drawn = [
        ~has_ended(vocabulary, depth).repeat_interleave(vocabulary ** (horizon - depth)) for depth in range(horizon)
    ]
    return torch.stack(drawn).sum(0)


def parted_at_the_first_token(horizon: int, moved: float, rare: float) -> tuple[Policy, Policy]:
    """Policies that differ by `moved` in many contexts of every depth, and as whole sequences by no more than that.

    Theta begins with token 1, and the rollout policy takes it after a first 0, where the other one hardly does. Further
    differences behind either of them add nothing to the distance of the sequences.
    """
    roll, theta = [], []
    for depth in range(horizon):
        contexts = torch.arange(2**depth)
        ours = torch.full((2**depth,), rare, dtype=torch.float64)
        theirs = ours + torch.where(contexts >= 2**depth // 4, moved, 0.0)
        if depth == 1:
            ours[0], theirs[0] = moved, rare
        for policy, second in ((roll, ours), (theta, theirs)):
            policy.append(torch.stack([1 - second, second], -1).unsqueeze(0))
    return roll, theta


def number_of_trees(vocabulary: int, horizon: int) -> int:
    return max(20, min(750, 150_000 // vocabulary**horizon))


def number_of_ended_trees(vocabulary: int, horizon: int) -> int:
    return max(12, number_of_trees(vocabulary, horizon) // 4)


@functools.cache
def all_trees() -> list[Enumeration]:
    """More than 10,000 trees with sequences of one length, and those of `ended_trees`. Roll covers theta."""
    generator = torch.Generator().manual_seed(0)
    of_one_length = [enumerate_trees(*random_policies(*size, number_of_trees(*size), generator)) for size in SIZES]
    return [*of_one_length, *ended_trees()]


@functools.cache
def ended_trees() -> list[Enumeration]:
    """More than 3,000 trees with sequences of different lengths, by `SIZES`. Roll covers theta."""
    generator = torch.Generator().manual_seed(7)
    return [
        enumerate_trees(*random_policies(*size, number_of_ended_trees(*size), generator, ends=True)) for size in SIZES
    ]


def largest_share(errors: list[torch.Tensor], bounds: list[torch.Tensor]) -> float:
    """How much of a bound the worst reward of any tree uses up."""
    return max(torch.where(b > 1e-6, e / b, 0.0).max().item() for e, b in zip(errors, bounds, strict=True))
