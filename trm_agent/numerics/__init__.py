"""`trm numerics`: how far the trainer's log-probs are from the rollout engine's, by depth in the context."""
