"""The subcommands of `trm` that an author of environments uses; each is a module like those of `trm_agent.commands`."""
