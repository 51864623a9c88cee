"""The subcommands of `trm`, one module each: `add_parser(subparsers)` and `run(arguments) -> exit code`.

A module imports what is heavy inside `run`, so that `trm --help` stays fast, and raises ValueError for bad input.
"""
