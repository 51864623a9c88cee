"""Checkpoints: their sources, their files, and the merging of shards."""
