"""Code of the driver: from the configuration to verl's trainer, with our runs' additions."""
