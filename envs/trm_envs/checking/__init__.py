"""The parts of `trm_envs.checker`: the checks, each a function that raises."""
