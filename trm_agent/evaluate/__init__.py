"""Evaluation of checkpoints on tasks: episodes, results and figures. Nothing is imported here: see the modules."""
