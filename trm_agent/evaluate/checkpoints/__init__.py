"""Checkpoints: where one comes from, its files, its shards merged."""
