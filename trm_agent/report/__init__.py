"""One self-contained HTML page about runs and evaluations: curves, configuration, episodes token by token."""
