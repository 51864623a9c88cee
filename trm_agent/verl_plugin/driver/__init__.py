"""Runs in the driver: from the configuration to verl's trainer, and what our runs add to it."""
