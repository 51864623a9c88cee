"""Agentic RL on verl with Trust Region Masking."""
