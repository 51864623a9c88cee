"""The environments, one per file."""
