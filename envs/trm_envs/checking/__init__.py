"""The parts of `trm_envs.checker`: what is checked, each check a function that raises."""
