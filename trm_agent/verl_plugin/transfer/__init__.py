"""Weights from the trainer to rollout servers with devices of their own, on machines without NCCL."""
