"""Agentic RL on verl with Trust Region Masking."""

__version__ = "0.1.0"
