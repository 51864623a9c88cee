"""Code of the trainer's ranks: the policy loss and its inputs from the forward pass."""
