"""Results that a move of modules must not change, written by `python -m tests.golden.make`."""
