"""Programs as plain processes, without isolation."""
