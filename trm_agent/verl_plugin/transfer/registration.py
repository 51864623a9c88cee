"""The module for `checkpoint_engine.custom_backend_module`, which verl imports before it makes an end of a transfer."""

from typing import Any

from verl.checkpoint_engine.base import CheckpointEngineRegistry

# a rollout server's worker imports nothing else of ours, and needs our name for the socket of the last metres
from trm_agent.verl_plugin import extension  # noqa: F401
from trm_agent.verl_plugin.transfer.tcp_engine import NAME, TCPCheckpointEngine

_registry: Any = CheckpointEngineRegistry
_registry.register(NAME)(TCPCheckpointEngine)
