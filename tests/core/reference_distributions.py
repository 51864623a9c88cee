"""Float64 loops over whole distributions, written from the definitions and sharing nothing with trm_agent.core."""

import math
from itertools import combinations


def log_probs(logits: list[float]) -> list[float]:
    largest = max(logits)
    log_total = math.log(math.fsum(math.exp(value - largest) for value in logits))
    return [value - largest - log_total for value in logits]


def divergences(rollout_logits: list[float], logits: list[float], smallest: float = 0.0) -> tuple[float, float, float]:
    """KL(roll || theta), KL(theta || roll) and TV; for the KLs a first probability of `smallest` or less is 0."""
    rollout, policy = log_probs(rollout_logits), log_probs(logits)
    kl, reverse_kl, distances = [], [], []
    for log_p, log_q in zip(rollout, policy, strict=True):
        p, q = math.exp(log_p), math.exp(log_q)
        if p > smallest:
            kl.append(p * (log_p - log_q))
        if q > smallest:
            reverse_kl.append(q * (log_q - log_p))
        distances.append(abs(p - q))
    # Gibbs' inequality; rounding brings a sum below it
    return max(math.fsum(kl), 0.0), max(math.fsum(reverse_kl), 0.0), math.fsum(distances) / 2


def divergences_of_probs(p: list[float], q: list[float]) -> tuple[float, float]:
    """KL(p || q) and TV."""
    kl, distance = 0.0, 0.0
    for rollout, policy in zip(p, q, strict=True):
        if rollout > 0:
            kl += rollout * math.log(rollout / policy) if policy > 0 else math.inf
        distance += abs(rollout - policy)
    return kl, distance / 2


def vertex_placements(known: dict[int, float], vocab: int) -> list[list[float]]:
    """Every rollout distribution with these probabilities whose tail is a vertex: as many tokens as fit at the least
    known probability, one with the rest."""
    tail = [token for token in range(vocab) if token not in known]
    mass, largest = 1 - math.fsum(known.values()), min(known.values())
    base = [known.get(token, 0.0) for token in range(vocab)]
    if not tail:
        return [base]
    num_full = min(int(mass / largest + 1e-9), len(tail))
    placements = []
    for full in combinations(tail, num_full):
        others = [token for token in tail if token not in full]
        for last in others or [None]:
            placement = list(base)
            for token in full:
                placement[token] = largest
            if last is not None:
                placement[last] = max(mass - num_full * largest, 0.0)
            placements.append(placement)
    return placements
