"""The check that a ratio is to the policy that sampled: a constant reward has no first-order gain."""

import numpy as np


def standard_errors_of_the_gain(log_probs: np.ndarray, rollout_log_probs: np.ndarray, mask: np.ndarray) -> float:
    """How far the mean of sum_t (rho_t - 1) over sequences is from 0, in its standard errors.

    Args:
        log_probs: of the policy in training, shape (sequences, length), nats.
        rollout_log_probs: recorded, same shape, nats.
        mask: bool, True on tokens that the model sampled, same shape.
    """
    ratios = np.exp(np.where(mask, log_probs - rollout_log_probs, 0.0))
    gains = (ratios - 1).sum(axis=1)
    error = gains.std(ddof=1) / len(gains) ** 0.5
    assert error > 0, "the policies are one: nothing is shown"
    return abs(gains.mean()) / error
