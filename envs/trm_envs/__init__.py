"""Tool-using text environments for agents, as Gymnasium environments. Importing registers the `trm/...` ids."""

from trm_envs.base import EnvOptions, ToolEnv
from trm_envs.protocols import ParsedTurn, ToolCall, format_tool_call, parse_turn
from trm_envs.registration import register_envs, registered_ids
from trm_envs.spaces import UnicodeText
from trm_envs.tools import Tool, ToolError, ToolResult, run_tool_call

register_envs()

__all__ = [
    "EnvOptions",
    "ParsedTurn",
    "Tool",
    "ToolCall",
    "ToolEnv",
    "ToolError",
    "ToolResult",
    "UnicodeText",
    "format_tool_call",
    "parse_turn",
    "registered_ids",
    "run_tool_call",
]
