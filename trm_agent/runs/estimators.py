"""verl's advantage estimators by what they need: the other episodes of a task, or none of them."""

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
"""The baseline is made of the rewards of the group: the episodes of one task."""
OTHER_ESTIMATORS = frozenset({"gae", "reinforce_plus_plus", "remax"})
"""The baseline is a critic, the whole batch, or a greedy episode: a group of one is as good as any."""
