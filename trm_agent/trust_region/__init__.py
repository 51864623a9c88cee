"""The method: its settings, the table of criteria, adaptive thresholds, analysis and dumps of rollouts."""
