"""The Hydra tree, a package so that verl's own command finds it: `hydra.searchpath=[pkg://trm_agent.conf]`."""
