"""Intervals, tests and fits over tasks, on plain numbers."""
