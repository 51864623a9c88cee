"""The command `trm`. A new subcommand is a module in `trm_agent.commands` and its entry in `COMMANDS`."""

import argparse
import sys

from trm_agent import __version__, extras
from trm_agent.commands import analyze, bounds, doctor, envs, eval, report, sandbox
from trm_agent.runs.search_path import look_here_last

COMMANDS = (eval, report, analyze, bounds, envs, sandbox, doctor)
BAD_INPUT = 2


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: 0 success, 2 bad input or a missing package, explained in one line on the standard error.

    Raises:
        SystemExit: with 0 after --help, with 2 if the arguments cannot be parsed.
    """
    look_here_last()
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command in extras.NEEDS:
            extras.require(arguments.command)
        return arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(_reason(error).split())}", file=sys.stderr)
        return BAD_INPUT


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and who may read it"
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trm",
        description="Tools around Trust Region Masking (arXiv:2512.23075).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm bounds --horizon 4096 --delta 1e-4 --kl-seq 0.01\n\n"
        "trm COMMAND --help explains a command. Training is python -m trm_agent.train.",
    )
    parser.add_argument("--version", action="version", version=f"{extras.DISTRIBUTION} {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
