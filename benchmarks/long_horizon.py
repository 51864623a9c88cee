"""Masks at long horizons on a chain of decisions: does a trust region learn more than a coin of its own acceptance?

python -m benchmarks.long_horizon [--setting mild|hard] [--seeds N] [--first-seed S] [--rules NAME ...]

No network: T decisions of 24 kinds with 5 choices, a tabular softmax policy, reward 1 if a share of the decisions is
right. The rollout policy is the trainer's at the start of the step plus small noise of the logits everywhere and rare
large flips, and both distributions are known. `mild`: T = 400, 4 updates a step, TRM-Max keeps 15 % of the sequences.
`hard`: T = 100, 16 updates a step at a high rate.

A coin repeats the acceptance of another rule's run with the same seed, update by update: a yoked coin. `own coin` takes
the share that TRM-Max would keep in its own run, so it keeps less where its policies drift apart; so does `permuted`,
which shuffles the decisions of TRM-Max among the sequences with the same sign of the advantage. `inverse` keeps what
TRM-Max rejects. After the rows: whether TRM-Max learns more than its coins, the inverse less than TRM-Max, and which
rules collapse where no mask does. Noise is what Student's 95 % interval of the paired differences does not tell from 0.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from trm_agent.evaluate.statistics.paired import student_quantile

KINDS, CHOICES, SEQUENCES, GROUP, STEPS = 24, 5, 32, 16, 40
MAX_KL, AVG_KL, OPSM_DELTA = 0.05, 0.004, 1e-4
REPORTED = (10, 20, STEPS)
COMPARED = (
    ("max", "coin of max"),
    ("max", "permuted max"),
    ("max", "own coin"),
    ("inverse of max", "max"),
    ("inverse of max", "coin of inverse"),
)
"""Pairs of rules whose difference the benchmark is about."""
COLLAPSED = 0.5
"""Success at the end below which a run has collapsed."""
Floats = np.ndarray


@dataclass(frozen=True)
class Setting:
    horizon: int
    flips: float
    """Share of the decisions in which the rollout policy's logits are far off."""
    rate: float
    updates: int
    seeds: int
    first_seed: int


SETTINGS = {
    "mild": Setting(400, 0.005, 0.005, 4, 6, 0),
    "hard": Setting(100, 0.01, 0.15, 16, 24, 100),
}


@dataclass(frozen=True)
class Update:
    """What a rule may look at. Shape (sequences, horizon) unless stated otherwise."""

    kl: Floats
    ratio: Floats
    advantages: Floats
    """Shape (sequences, 1)."""
    coin: np.random.Generator
    share: float | None
    """Acceptance of the run that a coin repeats."""

    @cached_property
    def inside(self) -> Floats:
        """Whether TRM-Max keeps a sequence, shape (sequences, 1)."""
        return (self.kl.max(axis=1) <= MAX_KL)[:, None]

    @property
    def mean_shift(self) -> Floats:
        """Mean of log(roll / theta) over the drawn choices of a sequence, shape (sequences, 1)."""
        return -np.log(self.ratio).mean(axis=1, keepdims=True)

    @cached_property
    def outwards(self) -> Floats:
        """Whether a token is outside and the update would move it further."""
        return (self.kl > MAX_KL) & (self.advantages * (self.ratio - 1) > 0)


def permuted(update: Update) -> Floats:
    kept = update.inside.copy()
    for positive in (True, False):
        rows = np.flatnonzero((update.advantages[:, 0] > 0) == positive)
        kept[rows] = kept[update.coin.permutation(rows)]
    return kept


def coin(update: Update) -> Floats:
    assert update.share is not None
    return update.coin.random((len(update.kl), 1)) < update.share


def running_mean(values: Floats) -> Floats:
    return values.cumsum(axis=1) / np.arange(1, values.shape[1] + 1)


def clipped(update: Update) -> Floats:
    up = (update.ratio > 1.2) & (update.advantages > 0)
    return ~(up | ((update.ratio < 0.8) & (update.advantages < 0)))


RULES: dict[str, Callable[[Update], Floats]] = {
    "none": lambda update: np.ones_like(update.inside),
    "max": lambda update: update.inside,
    "coin of max": coin,
    "own coin": lambda update: update.coin.random(update.inside.shape) < update.inside.mean(),
    "permuted max": permuted,
    "inverse of max": lambda update: ~update.inside,
    "coin of inverse": coin,
    "avg": lambda update: (update.kl.mean(axis=1) <= AVG_KL)[:, None],
    "prefix avg": lambda update: (running_mean(update.kl).max(axis=1) <= AVG_KL)[:, None],
    "stop": lambda update: np.cumprod(update.kl <= MAX_KL, axis=1).astype(bool),
    "cumulative stop": lambda update: update.kl.cumsum(axis=1) <= AVG_KL * update.kl.shape[1],
    "skip": lambda update: update.kl <= MAX_KL,
    "negative only": lambda update: update.inside | (update.advantages >= 0),
    "directional": lambda update: ~update.outwards.any(axis=1, keepdims=True),
    "directional stop": lambda update: np.cumprod(~update.outwards, axis=1).astype(bool),
    "directional token": lambda update: ~update.outwards,
    "clip 0.2": clipped,
    "opsm": lambda update: clipped(update) & ((update.advantages >= 0) | (update.mean_shift <= OPSM_DELTA)),
}
REPEATED = {"coin of max": "max", "coin of inverse": "inverse of max"}


@dataclass
class Run:
    """What a run leaves behind."""

    success: list[float] = field(default_factory=list)
    """Exact probability of a reward after each step."""
    kept: list[float] = field(default_factory=list)
    """Share of the tokens that each update kept."""


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def probability_of(rate: float, horizon: int, needed: int) -> float:
    """P(at least `needed` of `horizon` decisions are right)."""
    counts = np.arange(needed, horizon + 1)
    logs = [math.lgamma(horizon + 1) - math.lgamma(k + 1) - math.lgamma(horizon - k + 1) for k in counts]
    return float(np.exp(np.array(logs) + counts * math.log(rate) + (horizon - counts) * math.log1p(-rate)).sum())


def batch_of(
    rng: np.random.Generator, logits: Floats, good: Floats, needed: int, setting: Setting
) -> tuple[Floats, Floats, Floats, Floats]:
    """Sample sequences: kinds, log-probs of the rollout policy over all choices, choices, and advantages."""
    kinds = rng.integers(0, KINDS, (SEQUENCES, setting.horizon))
    noise = 0.01 * rng.normal(size=(*kinds.shape, CHOICES))
    flips = rng.random((*kinds.shape, 1)) < setting.flips
    rollout = log_softmax(logits[kinds] + noise + flips * rng.normal(size=noise.shape) * 1.5)
    draws = rng.random((*kinds.shape, 1))
    choices = (draws > np.exp(rollout).cumsum(axis=-1)).sum(axis=-1).clip(max=CHOICES - 1)
    rewards = ((choices == good[kinds]).sum(axis=1) >= needed).astype(float).reshape(-1, GROUP)
    spread = rewards.std(axis=1, ddof=1, keepdims=True) + 1e-6
    advantages = (rewards - rewards.mean(axis=1, keepdims=True)) / spread
    return kinds, rollout, choices, advantages.reshape(-1, 1)


def train(rule: str, setting: Setting, seed: int, shares: list[float] | None) -> Run:
    """Train with Adam under a rule; `shares` are the acceptances that a coin repeats."""
    rng, coin_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    good, run = rng.integers(0, CHOICES, KINDS), Run()
    logits = rng.normal(size=(KINDS, CHOICES)) * 0.5
    logits[np.arange(KINDS), good] += 2.0
    start = np.exp(log_softmax(logits))[np.arange(KINDS), good].mean()
    needed = math.ceil(setting.horizon * (start + 0.02))
    first, second = np.zeros_like(logits), np.zeros_like(logits)
    for _ in range(STEPS):
        kinds, rollout, choices, advantages = batch_of(rng, logits, good, needed, setting)
        probs = np.exp(rollout)
        negative_entropy, places = (probs * rollout).sum(axis=-1), kinds * CHOICES + choices
        of_choice = np.take_along_axis(rollout, choices[..., None], -1)[..., 0]
        for _ in range(setting.updates):
            table = log_softmax(logits)
            kl = (negative_entropy - (probs * table[kinds]).sum(axis=-1)).clip(min=0)
            ratio = np.exp(table.ravel()[places] - of_choice)
            share = None if shares is None else shares[len(run.kept)]
            kept = RULES[rule](Update(kl, ratio, advantages, coin_rng, share))
            weights = kept * advantages * ratio / ratio.size
            gradient = np.bincount(places.ravel(), weights.ravel(), KINDS * CHOICES).reshape(logits.shape)
            gradient -= np.exp(table) * gradient.sum(axis=-1, keepdims=True)
            run.kept.append(float(np.broadcast_to(kept, kl.shape).mean()))
            number = len(run.kept)
            first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
            scale = np.sqrt(second / (1 - 0.99**number)) + 1e-8
            logits = logits + setting.rate * first / (1 - 0.9**number) / scale
        right = np.exp(log_softmax(logits))[np.arange(KINDS), good].mean()
        run.success.append(probability_of(min(max(float(right), 1e-12), 1 - 1e-12), setting.horizon, needed))
    return run


def play(rules: list[str], setting: Setting) -> dict[str, list[Run]]:
    """Train every rule with every seed; a rule whose coin is asked for runs first."""
    runs: dict[str, list[Run]] = {}
    for rule in [*dict.fromkeys(name for asked in rules for name in (REPEATED.get(asked, asked), asked))]:
        repeated = runs.get(REPEATED.get(rule, ""))
        runs[rule] = [
            train(rule, setting, setting.first_seed + seed, repeated[seed].kept if repeated else None)
            for seed in range(setting.seeds)
        ]
        print(row(rule, runs), flush=True)
    return runs


def row(rule: str, runs: dict[str, list[Run]]) -> str:
    """Success after 10, 20 and 40 steps with its standard error over seeds, and the paired difference to TRM-Max."""
    success = successes(runs[rule])
    final, count = success[:, -1], len(success)
    error = final.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    text = f"{rule:<18}" + "".join(f"{mean:>8.3f}" for mean in success.mean(axis=0))
    text += f" ±{error:.3f}{collapsed(runs[rule]):>6} of {count:<3}{np.mean([run.kept for run in runs[rule]]):>7.2f}"
    if rule == "max" or "max" not in runs or count < 2:
        return text
    return text + "   " + "  ".join(f"{mean:+.3f} ±{error:.3f}" for mean, error in differences(runs, rule, "max"))


def successes(runs: list[Run]) -> Floats:
    """Success of each seed after the steps that are reported, shape (seeds, 3)."""
    return np.array([[run.success[step - 1] for step in REPORTED] for run in runs])


def collapsed(runs: list[Run]) -> int:
    return sum(run.success[-1] < COLLAPSED for run in runs)


def differences(runs: dict[str, list[Run]], rule: str, other: str) -> list[tuple[float, float]]:
    """Mean paired difference of two rules' success and its standard error, after each of the steps reported."""
    pairs = successes(runs[rule]) - successes(runs[other])
    errors = pairs.std(axis=0, ddof=1) / math.sqrt(len(pairs))
    return [(float(mean), float(error)) for mean, error in zip(pairs.mean(axis=0), errors, strict=True)]


def conclusions(runs: dict[str, list[Run]]) -> list[str]:
    """Say in words what the rows show of the rules that were played."""
    lines = []
    for rule, other in COMPARED:
        if rule not in runs or other not in runs or len(runs[rule]) < 2:
            continue
        words = []
        for step, (mean, error) in zip(REPORTED, differences(runs, rule, other), strict=True):
            noise = student_quantile(len(runs[rule]) - 1) * error
            word = "within noise" if abs(mean) <= noise else "better" if mean > 0 else "worse"
            words.append(f"{word} after {step} ({mean:+.3f} ±{error:.3f})")
        lines.append(f"{rule} against {other}: {', '.join(words)}")
    if "none" in runs and collapsed(runs["none"]):
        told = ", ".join(f"{rule} {collapsed(of_rule)}" for rule, of_rule in runs.items() if rule != "none")
        lines.append(f"no mask collapses in {collapsed(runs['none'])} of {len(runs['none'])}; the rules: {told}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=SETTINGS, default="mild")
    parser.add_argument("--seeds", type=int, help="how many (mild 6, hard 24)")
    parser.add_argument("--first-seed", type=int)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), metavar="NAME", help=", ".join(RULES))
    options = parser.parse_args()
    given = {"seeds": options.seeds, "first_seed": options.first_seed}
    setting = Setting(**{**vars(SETTINGS[options.setting]), **{k: v for k, v in given.items() if v is not None}})
    print(f"{options.setting}: {vars(setting)}")
    print(f"{'':<18}{'J at 10':>8}{'20':>8}{'40':>8}{'':>7}{'collapsed':>10}{'kept':>9}   minus max at 10, 20, 40")
    print("\n".join(conclusions(play(options.rules, setting))))


if __name__ == "__main__":
    main()
