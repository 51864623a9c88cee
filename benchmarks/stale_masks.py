"""Masks on stale data, without a language model: which sequences must a trust region keep for learning to survive?

python -m benchmarks.stale_masks [--seeds 24] [--rules NAME ...] [--rate X] [--momentum B] [--lag N] [--updates N]

A network of two hidden layers copies one of two digits, 2, 4 or 6 times an episode, and gets a reward if all are right:
groups of 8, GRPO's advantages, AdamW. As in `separate_async` a step is of two updates on batches of their own, and all
of it was sampled by the policy from before the step before. Rules are the product's criteria at their defaults, `dppo`
is `prefix` without a budget, and `inward` a control that rejects a sequence with a token outside that the update would
bring back, which `max` does and `directional` does not. All rules of a seed begin with the same network.
"""

import argparse
import copy
import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from trm_agent.core.controls import Sequences, permuted_mask
from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.losses import kept_tokens, masked_surrogate_loss
from trm_agent.core.token_batch import TokenBatch
from trm_agent.trust_region.masking import decide
from trm_agent.trust_region.settings import TrmConfig

DIGITS, HORIZONS, GROUP, HIDDEN = 10, (2, 4, 6), 8, 64
LONGEST = max(HORIZONS)
TASKS = 16
"""Groups of a step."""
START = 0.8
"""Probability of a right digit that warm-up ends with."""
HOT = slice(3, 10)
"""Steps 4 to 10, in which the rate is high."""


@dataclass(frozen=True)
class Setting:
    """A run but for its rule and seed."""

    rate: float = 0.01
    """The largest: warmed up over 5 steps, then down to 0 by half a cosine."""
    momentum: float = 0.9
    """Adam's first beta."""
    lag: int = 1
    """Steps between the policy that samples and the one that a step begins with."""
    updates: int = 2
    """Of a step."""
    steps: int = 20


@dataclass
class Run:
    """What a run leaves behind."""

    success: list[float] = field(default_factory=list)
    """Exact probability of a reward after each step, over the same tasks."""
    kept: list[float] = field(default_factory=list)
    """Share of the sequences of a step with a token that stays."""
    token_kl: list[float] = field(default_factory=list)
    """Mean k2 of the tokens of a step, nats."""


@dataclass(frozen=True)
class Tasks:
    """Decisions of tasks."""

    inputs: torch.Tensor
    """Shape (tasks, LONGEST, features)."""
    right: torch.Tensor
    """The digit to copy, shape (tasks, LONGEST)."""
    asked: torch.Tensor
    """bool: within the task's horizon, same shape."""

    def repeated(self, times: int) -> "Tasks":
        return Tasks(*(values.repeat_interleave(times, 0) for values in (self.inputs, self.right, self.asked)))


Rule = Callable[[TokenBatch, torch.Generator], torch.Tensor]


def criterion(name: str, **changed: float | None) -> Rule:
    settings = TrmConfig(criterion=name, **changed)
    return lambda batch, _: decide(settings, batch)


def permuted(batch: TokenBatch, generator: torch.Generator) -> torch.Tensor:
    accepted, signs = decide(TrmConfig(), batch).any(-1), batch.advantages[:, 0].sign().long()
    return kept_tokens(batch.response_mask, permuted_mask(Sequences(batch.lengths, signs, accepted), generator))


def coin(batch: TokenBatch, generator: torch.Generator) -> torch.Tensor:
    return kept_tokens(batch.response_mask, torch.rand(len(batch.lengths), generator=generator) < 0.4)


RULES: dict[str, Rule] = {
    "none": criterion("max", max_token_kl=1e9),
    "max": criterion("max"),
    "max 0.2": criterion("max", max_token_kl=0.2),
    "coin 0.4": coin,
    "permuted": permuted,
    "dppo": criterion("prefix", prefix_budget=None, min_position_weight=1.0),
    **{
        name: criterion(name)
        for name in ("inward", "directional", "negative_only", "stop", "stop_directional", "token", "avg")
    },
}


def draw(number: int, generator: torch.Generator) -> Tasks:
    def digits(below: int) -> torch.Tensor:
        return torch.randint(0, below, (number, LONGEST), generator=generator)

    first, second, which = digits(DIGITS), digits(DIGITS), digits(2)
    places = torch.arange(LONGEST).expand(number, LONGEST)
    hot = [
        torch.nn.functional.one_hot(values, size)
        for values, size in ((first, DIGITS), (second, DIGITS), (which, 2), (places, LONGEST))
    ]
    horizons = torch.tensor(HORIZONS)[torch.randint(0, len(HORIZONS), (number, 1), generator=generator)]
    return Tasks(torch.cat(hot, -1).float(), torch.where(which == 1, first, second), places < horizons)


def held_out() -> Tasks:
    return draw(500, torch.Generator().manual_seed(0))


def log_probs(model: torch.nn.Module, tasks: Tasks, choices: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(tasks.inputs)
    return logits.log_softmax(-1).gather(-1, choices.unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def success(model: torch.nn.Module, tasks: Tasks) -> float:
    """Return the exact probability that all decisions of a task are right."""
    return torch.where(tasks.asked, log_probs(model, tasks, tasks.right), 0.0).sum(-1).exp().mean().item()


def warmed_up(seed: int) -> torch.nn.Module:
    """Return a network that imitates right choices until it makes most of them."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    sizes = (2 * DIGITS + 2 + LONGEST, HIDDEN, HIDDEN)
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (torch.nn.Linear(*pair), torch.nn.Tanh())]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN, DIGITS))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    while True:
        tasks = draw(128, generator)
        chosen = log_probs(model, tasks, tasks.right)[tasks.asked]
        if chosen.detach().exp().mean() > START:
            return model
        optimizer.zero_grad()
        (-chosen.mean()).backward()
        optimizer.step()


def rate_of(step: int, setting: Setting) -> float:
    warmup = 5
    if step <= warmup:
        return setting.rate * step / warmup
    return setting.rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (setting.steps - warmup)))


@dataclass(frozen=True)
class Sampled:
    """Episodes of a batch. Shapes (episodes, LONGEST)."""

    tasks: Tasks
    choices: torch.Tensor
    log_probs: torch.Tensor
    """Of the policy that sampled, nats."""
    advantages: torch.Tensor


@torch.no_grad()
def sampled_from(policy: torch.nn.Module, number: int, generator: torch.Generator) -> Sampled:
    """Play groups of episodes of as many new tasks, and compare each with its group."""
    tasks = draw(number, generator).repeated(GROUP)
    probs = policy(tasks.inputs).softmax(-1)
    choices = torch.multinomial(probs.flatten(0, 1), 1, generator=generator).view(tasks.right.shape)
    rewards = ((choices == tasks.right) | ~tasks.asked).all(-1).float().view(-1, GROUP)
    spread = rewards.std(-1, keepdim=True) + 1e-6
    advantages = ((rewards - rewards.mean(-1, keepdim=True)) / spread).view(-1, 1).expand(choices.shape)
    return Sampled(tasks, choices, log_probs(policy, tasks, choices), advantages)


def update(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Sampled,
    rule: Callable[[TokenBatch], torch.Tensor],
) -> tuple[float, float]:
    """Take a step on the masked surrogate; return the share of the sequences that it kept, and the mean k2."""
    asked = data.tasks.asked
    log_ratio = masked_log_ratio(log_probs(model, data.tasks, data.choices), data.log_probs, asked)
    batch = TokenBatch(log_ratio.detach(), data.log_probs, data.advantages, asked)
    kept = rule(batch)
    optimizer.zero_grad()
    masked_surrogate_loss(log_ratio, data.advantages, kept, num_sequences=len(asked)).backward()
    optimizer.step()
    token_kl = batch.divergences.kl_for_max.upper[asked].mean().item()
    return kept.any(-1).float().mean().item(), token_kl


def train(start: torch.nn.Module, rule: str, setting: Setting, seed: int) -> Run:
    """Train a copy of a network under a rule."""
    model, run = copy.deepcopy(start), Run()
    optimizer = torch.optim.AdamW(model.parameters(), setting.rate, betas=(setting.momentum, 0.999))
    generator, coins = (torch.Generator().manual_seed(1000 * seed + place) for place in (1, 2))
    tasks, policies = held_out(), [copy.deepcopy(model)]
    for step in range(1, setting.steps + 1):
        optimizer.param_groups[0]["lr"] = rate_of(step, setting)
        sampler = policies[max(0, step - 1 - setting.lag)]
        made = [
            update(
                model,
                optimizer,
                sampled_from(sampler, TASKS // setting.updates, generator),
                lambda batch: RULES[rule](batch, coins),
            )
            for _ in range(setting.updates)
        ]
        policies.append(copy.deepcopy(model))
        run.success.append(success(model, tasks))
        run.kept.append(statistics.fmean(kept for kept, _ in made))
        run.token_kl.append(statistics.fmean(token_kl for _, token_kl in made))
    return run


def row(rule: str, runs: list[Run]) -> str:
    """Format success with its standard error over seeds, and what was kept while the rate was high."""
    final = [run.success[-1] for run in runs]
    error = statistics.stdev(final) / math.sqrt(len(final)) if len(final) > 1 else math.nan
    early, kept, token_kl = (
        statistics.fmean(statistics.fmean(values[part]) for values in of_runs)
        for of_runs, part in (
            ([run.success for run in runs], slice(4, 5)),
            ([run.kept for run in runs], HOT),
            ([run.token_kl for run in runs], HOT),
        )
    )
    cells = f"{early:.2f}", f"{statistics.fmean(final):.2f} ± {error:.2f}", f"{min(final):.2f} to {max(final):.2f}"
    return f"| {' | '.join((rule, *cells, f'{kept:.0%}', f'{token_kl:.2f}'))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), metavar="NAME", help=", ".join(RULES))
    for name, value in vars(Setting()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help="(default %(default)s)")
    options = vars(parser.parse_args())
    seeds, rules = options.pop("seeds"), options.pop("rules")
    setting = Setting(**options)
    torch.set_num_threads(1)
    print(f"{setting}, {seeds} seeds")
    starts = [warmed_up(seed) for seed in range(seeds)]
    print(f"success before: {statistics.fmean(success(start, held_out()) for start in starts):.2f}")
    print("| rule | after 5 steps | after all | least to largest | kept in steps 4 to 10 | mean token k2 there, nats |")
    print("|---|---|---|---|---|---|")
    for rule in rules:
        runs = [train(start, rule, setting, seed) for seed, start in enumerate(starts)]
        print(row(rule, runs), flush=True)


if __name__ == "__main__":
    main()
