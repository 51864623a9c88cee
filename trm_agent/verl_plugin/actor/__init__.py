"""Runs in the ranks of the trainer: the policy loss and its inputs from the forward pass."""
