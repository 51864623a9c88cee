"""Runs in the ranks of the trainer: the policy loss and what it needs of the forward pass."""
