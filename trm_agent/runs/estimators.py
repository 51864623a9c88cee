"""The advantage estimators of verl: those that need the other episodes of a task, and those that do not."""

GROUP_ESTIMATORS = frozenset(
    {
        "grpo",
        "grpo_vectorized",
        "grpo_passk",
        "gdpo",
        "rloo",
        "rloo_vectorized",
        "opo",
        "gpg",
        "reinforce_plus_plus_baseline",
        "optimal_token_baseline",
        "tir_optimal_token_baseline",
    }
)
"""Estimators with a baseline from the rewards of the group, the episodes of one task."""
OTHER_ESTIMATORS = frozenset({"gae", "reinforce_plus_plus", "remax"})
"""Estimators with a critic, the whole batch, or a greedy episode as baseline: a group of one is as good as any."""
BEST_ALONE = frozenset({"grpo_passk"})
"""Estimators with an advantage for the best episode of a group alone: by how much it is above the second."""
