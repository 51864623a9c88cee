"""Intervals, tests and fits over tasks; numbers in, numbers out."""
