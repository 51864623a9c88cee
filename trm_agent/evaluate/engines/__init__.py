"""Engines that play for a checkpoint: vLLM in this machine, or an endpoint."""
