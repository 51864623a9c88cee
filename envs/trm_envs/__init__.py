"""Tool-using text environments for agents, as Gymnasium environments. Importing registers the `trm/...` ids."""

from trm_envs.base import ToolEnv
from trm_envs.errors import InfrastructureError, VerifierError
from trm_envs.options import EnvOptions, check_choice, check_integer
from trm_envs.protocols import PROTOCOLS, TurnProtocol
from trm_envs.registration import register_envs, registered_ids
from trm_envs.spaces import UnicodeText
from trm_envs.tools import Tool, ToolError, ToolResult, run_tool_call, tool
from trm_envs.turn import ParsedTurn, ToolCall

register_envs()

__all__ = [
    "PROTOCOLS",
    "EnvOptions",
    "InfrastructureError",
    "ParsedTurn",
    "Tool",
    "ToolCall",
    "ToolEnv",
    "ToolError",
    "ToolResult",
    "TurnProtocol",
    "UnicodeText",
    "VerifierError",
    "check_choice",
    "check_integer",
    "register_envs",
    "registered_ids",
    "run_tool_call",
    "tool",
]
