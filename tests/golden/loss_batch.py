"""The batches of the loss: stored, so that no generator of random numbers stands between two versions."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.golden.stored import packed, unpacked

VOCAB, TOP_K = 11, 4
# tokens of each response, and how far the policy is from the rollout, in standard deviations of a log-probability
LONG = [
    (600, 1e-4),
    (150, 0.01),
    (40, 0.0),
    (24, 0.1),
    (30, 0.02),
    (30, 0.02),
    (12, 0.5),
    (5, 3.0),
    (1, 0.05),
    (3, 0.0),
]
MEASURED = [(60, 1e-3), (30, 0.02), (24, 0.1), (16, 0.3), (12, 0.0), (10, 0.1), (8, 1.0), (4, 0.05), (1, 0.2), (2, 0.0)]
# rows with a log-probability that is not a number, of the rollout and of the policy, and one without a sampled token
ROLLOUT_INF, POLICY_NAN, POLICY_INF, UNSAMPLED = 4, 5, 7, 9
# turns: so many sampled tokens, then so many of an observation
SAMPLED, OBSERVED = 7, 3


def draw(seed: int = 20261128) -> dict[str, Any]:
    """Draw both batches anew; the files hold what came out once."""
    rng = np.random.default_rng(seed)
    return {"long": _draw_long(rng), "measured": _draw_measured(rng)}


def read(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored batch with arrays in the place of texts."""
    kinds = {"mask": "i1", "tokens": "<i4", "lengths": "<i4"}
    return {name: unpacked(text, kinds.get(name, "<f4")) for name, text in stored.items()}


def _draw_long(rng: np.random.Generator) -> dict[str, str]:
    rollout = [np.log(rng.beta(4, 1, num)) for num, _ in LONG]
    policy = [row + scale * rng.standard_normal(len(row)) for row, (_, scale) in zip(rollout, LONG, strict=True)]
    return _stored(rng, LONG, rollout, policy, {})


def _draw_measured(rng: np.random.Generator) -> dict[str, str]:
    """Distributions over a small vocabulary, and the log-probabilities of the tokens that were sampled from them."""
    lengths = [num for num, _ in MEASURED]
    logits = [2 * rng.standard_normal((num, VOCAB)) for num in lengths]
    moved = [row + scale * rng.standard_normal(row.shape) for row, (_, scale) in zip(logits, MEASURED, strict=True)]
    full = [_log_softmax(row) for row in logits]
    tokens = [np.array([rng.choice(VOCAB, p=np.exp(each)) for each in row]) for row in full]
    rollout = [np.take_along_axis(row, ids[:, None], 1)[:, 0] for row, ids in zip(full, tokens, strict=True)]
    policy = [
        np.take_along_axis(_log_softmax(row), ids[:, None], 1)[:, 0] for row, ids in zip(moved, tokens, strict=True)
    ]
    more = {
        "logits": packed(np.concatenate(moved).astype("<f4")),
        "full": packed(np.concatenate(full).astype("<f4")),
        "tokens": packed(np.concatenate(tokens).astype("<i4")),
    }
    return _stored(rng, MEASURED, rollout, policy, more)


def _stored(rng: np.random.Generator, rows: Any, rollout: Any, policy: Any, more: dict[str, str]) -> dict[str, str]:
    # the trainer's policy at the start of the step, near the rollout's
    proximal = [row + 0.01 * rng.standard_normal(len(row)) for row in rollout]
    rollout[ROLLOUT_INF][1], policy[POLICY_NAN][2], policy[POLICY_INF][0] = -np.inf, np.nan, -np.inf
    masks = [np.arange(num) % (SAMPLED + OBSERVED) < SAMPLED for num, _ in rows]
    masks[UNSAMPLED][:] = False
    advantages = [np.full(num, value) for (num, _), value in zip(rows, rng.standard_normal(len(rows)), strict=True)]
    floats = {"rollout": rollout, "policy": policy, "proximal": proximal, "advantages": advantages}
    return {
        "lengths": packed(np.array([num for num, _ in rows], "<i4")),
        "mask": packed(np.concatenate(masks).astype("i1")),
        **{name: packed(np.concatenate(values).astype("<f4")) for name, values in floats.items()},
        **more,
    }


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
