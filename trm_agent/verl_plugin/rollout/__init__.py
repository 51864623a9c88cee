"""Runs in the rollout workers and in the processes of vLLM's server."""
