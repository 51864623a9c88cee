"""Code of the rollout workers and of the processes of vLLM's server."""
