"""Float64 loops over single tokens, written from arXiv:2512.23075v4 and sharing nothing with trm_agent.core.

A batch is four lists of equal length; entry i is one sequence without padding: log-probs of the policy in training,
log-probs of the rollout policy, advantages, and which tokens the model sampled.
"""

import math
import random
from dataclasses import dataclass


@dataclass
class Batch:
    log_probs: list[list[float]]
    rollout_log_probs: list[list[float]]
    advantages: list[list[float]]
    sampled: list[list[bool]]

    def __len__(self) -> int:
        return len(self.log_probs)


def random_batch(seed: int, num_sequences: int = 9, longest: int = 12, spread: float = 0.25) -> Batch:
    """Ragged sequences (one without a token, one with a single one) with tool tokens between the model's."""
    rng = random.Random(seed)
    lengths = [0, 1] + [rng.randint(2, longest) for _ in range(num_sequences - 2)]
    rng.shuffle(lengths)
    batch = Batch([], [], [], [])
    for length in lengths:
        scale = spread * rng.random() ** 2
        rollout = [math.log(rng.uniform(0.05, 0.95)) for _ in range(length)]
        batch.rollout_log_probs.append(rollout)
        batch.log_probs.append([min(value + rng.gauss(0.0, scale), -1e-3) for value in rollout])
        advantage = rng.gauss(0.0, 1.0)
        batch.advantages.append([advantage] * length)
        batch.sampled.append([position == 0 or rng.random() < 0.7 for position in range(length)])
    return batch


def token_divergence(log_prob: float, rollout_log_prob: float, estimator: str) -> float:
    rho = math.exp(log_prob) / math.exp(rollout_log_prob)
    return {
        "k1": -math.log(rho),
        "k2": math.log(rho) ** 2 / 2,
        "k3": rho - 1 - math.log(rho),
        "abs_log_ratio": abs(math.log(rho)),
        "abs_ratio_minus_one": abs(rho - 1),
    }[estimator]


def sequence_divergences(batch: Batch, index: int, estimator: str) -> list[float]:
    return [
        token_divergence(batch.log_probs[index][t], batch.rollout_log_probs[index][t], estimator)
        for t in range(len(batch.log_probs[index]))
        if batch.sampled[index][t]
    ]


def accepted(
    batch: Batch,
    index: int,
    max_threshold: float | None,
    avg_threshold: float | None,
    max_estimator: str = "k2",
    avg_estimator: str = "k3",
) -> bool:
    """M(x, y); a sequence without a token of the model is not in the batch at all."""
    for_max = sequence_divergences(batch, index, max_estimator)
    for_avg = sequence_divergences(batch, index, avg_estimator)
    if not for_max:
        return False
    inside_max = max_threshold is None or all(value <= max_threshold for value in for_max)
    inside_avg = avg_threshold is None or sum(for_avg) / len(for_avg) <= avg_threshold
    return inside_max and inside_avg


def ratio_deviations(batch: Batch, index: int) -> list[float]:
    """|rho - 1| of the model's tokens."""
    return [abs(math.exp(-value) - 1) for value in sequence_divergences(batch, index, "k1")]


def mean_ratio_deviation(batch: Batch, index: int) -> float:
    values = ratio_deviations(batch, index)
    return sum(values) / len(values) if values else 0.0


def length_neutral(batch: Batch, index: int, delta: float, eps: float | None) -> float:
    """W / Z with w_t = min(1, (T - t) eps, sqrt((T - t) delta / 2)), t = 1 .. T."""
    values = ratio_deviations(batch, index)
    weighted = total = 0.0
    for t, value in enumerate(values, start=1):
        remaining = len(values) - t
        weight = min(1.0, math.sqrt(remaining * delta / 2), math.inf if eps is None else remaining * eps)
        weighted += value * weight
        total += weight
    return weighted / total if total else 0.0


def prefix_budget_kept(
    divergences: list[float],
    ratios: list[float],
    advantages: list[float],
    threshold: float,
    min_weight: float,
    budget: float | None,
    adaptive: bool = True,
) -> list[bool]:
    """CPPO's rule, token after token; without a budget and with min_weight 1 DPPO's."""
    kept = []
    spent = earned = 0.0
    if budget is not None and divergences and adaptive:
        ranked, place = sorted(divergences), 0.9 * (len(divergences) - 1)
        low = int(place)
        tail = ranked[low] + (place - low) * (ranked[min(low + 1, len(ranked) - 1)] - ranked[low])
        budget = min(max(tail, budget), 2 * budget)
    for t, (divergence, ratio, advantage) in enumerate(zip(divergences, ratios, advantages, strict=True)):
        weight = 1 - (1 - min_weight) * t / max(len(divergences) - 1, 1)
        allowed = threshold if budget is None else min(threshold, threshold + budget * earned - spent)
        kept.append(advantage * (ratio - 1) <= 0 or weight * divergence <= allowed)
        spent += weight * divergence
        earned += weight
    return kept


def opsm_kept(ratios: list[float], advantages: list[float], delta: float, clip: float | None) -> list[bool]:
    """Which tokens have a gradient under DeepSeek-V3.2's objective: PPO's clipped term times the sequence's mask."""
    size = len(ratios)
    far = sum(-math.log(ratio) for ratio in ratios) / size > delta
    if far and sum(advantages) / size < 0:
        return [False] * size
    kept = []
    for ratio, advantage in zip(ratios, advantages, strict=True):
        above = clip is not None and advantage > 0 and ratio > 1 + clip
        below = clip is not None and advantage < 0 and ratio < 1 - clip
        kept.append(not above and not below)
    return kept


def loss_and_gradient(
    batch: Batch, keep: list[bool], denominator: float, ratio_truncation: float = math.inf
) -> tuple[float, list[list[float]]]:
    """-(1/denominator) sum_i M_i sum_t A_it rho_it, and its derivative by every log pi_theta(y_t | c_t)."""
    loss = 0.0
    gradient = []
    for index in range(len(batch)):
        row = []
        for t in range(len(batch.log_probs[index])):
            if not keep[index] or not batch.sampled[index][t]:
                row.append(0.0)
                continue
            rho = math.exp(batch.log_probs[index][t]) / math.exp(batch.rollout_log_probs[index][t])
            # d rho / d log pi = rho; a truncated weight is a constant that still multiplies grad log pi.
            term = -batch.advantages[index][t] * min(rho, ratio_truncation) / denominator
            loss += term
            row.append(term)
        gradient.append(row)
    return loss, gradient


def perplexity_gap(batch: Batch) -> float:
    gaps = []
    for index in range(len(batch)):
        positions = [t for t in range(len(batch.log_probs[index])) if batch.sampled[index][t]]
        if positions:
            ours = sum(batch.log_probs[index][t] for t in positions) / len(positions)
            theirs = sum(batch.rollout_log_probs[index][t] for t in positions) / len(positions)
            gaps.append(abs(ours - theirs))
    return sum(gaps) / len(gaps)
