"""How a vLLM server starts its engine where the run has a fork server."""

import importlib.metadata
import os
from typing import Any

from verl.utils.device import get_device_name

from trm_agent.fork_server.client import SOCKET_VARIABLE
from trm_agent.verl_plugin.cpu.patches import apply_server_patches, fork_engine

# of a GPU, whose way to start an engine is known
VLLM_VERSION = "0.24.0"


def let_engine_fork(options: Any) -> None:
    """Let the engine be a fork of the run's fork server, if there is one.

    The platform says whether the engine is on a CPU, not the server, which there is on GPUs too.

    Args:
        options: vLLM's own, as it parses them.
    """
    if not os.environ.get(SOCKET_VARIABLE):
        return
    if get_device_name() == "cpu":
        apply_server_patches()
    elif reason := why_anew(options):
        print(f"fork server: the engine starts by itself, since {reason}", flush=True)
    else:
        fork_engine()


def why_anew(options: Any) -> str:
    """Return why an engine on a GPU cannot be a fork; "" where it can."""
    if getattr(options, "numa_bind", False):
        # which vLLM does by another interpreter
        return "it is bound to a node of memory"
    installed = importlib.metadata.version("vllm")
    return "" if installed.split("+")[0] == VLLM_VERSION else f"vllm is {installed}, and not {VLLM_VERSION}"
