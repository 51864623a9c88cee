"""A plain Gymnasium environment as one of ours: its actions are a tool, its observations text."""

from trm_envs.gym_tool.env import GymTool
from trm_envs.gym_tool.options import GymOptions
from trm_envs.gym_tool.registering import register_gym

__all__ = ["GymOptions", "GymTool", "register_gym"]
