"""The subcommands of `trm` for authors of environments; each is a module like those of `trm_agent.commands`."""
