"""The subcommands of `trm`, one module each: `add_parser(subparsers, summary)` and `run(arguments) -> exit code`.

A module imports heavy packages inside `run`, so that its `--help` stays fast, and raises ValueError for bad input.
"""
