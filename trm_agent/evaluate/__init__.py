"""Evaluation: tasks and checkpoints in, results and their figures out. Nothing is imported here: see the modules."""
