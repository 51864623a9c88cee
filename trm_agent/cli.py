"""The command `trm`. A new subcommand is a module with `add_parser` and its row in `COMMANDS`.

Only the module of the requested subcommand is imported; `trm --help` needs none.
"""

import argparse
import errno
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from trm_agent import __version__, extras
from trm_agent.runs.arguments import CommandParser
from trm_agent.runs.data_text import printable
from trm_agent.runs.reader import ended_by_reader, is_reader_gone
from trm_agent.runs.search_path import look_here_last


class Command(NamedTuple):
    """The place of a subcommand, and its line in `trm --help`."""

    module: str
    summary: str
    more: str = ""
    """Module that adds an action to it which its own room may not import."""


COMMANDS = {
    "train": Command("trm_agent.commands.train", "train an agent, resume or extend its run"),
    "warmstart": Command(
        "trm_agent.warmstart.command", "let a pretrained model imitate an environment's solver, until it half succeeds"
    ),
    "export": Command("trm_agent.commands.export", "write a checkpoint of a run as a Hugging Face folder"),
    "eval": Command("trm_agent.commands.eval", "evaluate checkpoints on held-out tasks, and compare them"),
    "report": Command(
        "trm_agent.commands.report",
        "one HTML page of runs and evaluations: curves, configuration, episodes token by token",
    ),
    "analyze": Command(
        "trm_agent.commands.analyze",
        "acceptance, length bias and bounds of a rollout dump under other thresholds",
    ),
    "numerics": Command(
        "trm_agent.numerics.command",
        "how far the log-probs of a trainer, or of a second engine, are from the engine's, by depth in the context",
    ),
    "bounds": Command("trm_agent.commands.bounds", "error bounds of the surrogate at a horizon and its divergences"),
    "envs": Command(
        "trm_envs.commands.envs",
        "list, check and play environments, and start your own",
        "trm_agent.commands.envs_prompt",
    ),
    "sandbox": Command("trm_envs.commands.sandbox", "run an untrusted program, or serve a sandbox over HTTP"),
    "doctor": Command("trm_agent.commands.doctor", "say what this machine can do"),
}
BAD_INPUT = 2
_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some space, or choose a folder on another disk",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "a part of the path is a file: check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What to do after an operating system's error; others are a matter of permissions."""


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: 0 success, 2 bad input or a missing package, explained in one line on the standard error; 141
        without a word if the output's reader is gone, as `head` is after its lines.

    Raises:
        SystemExit: with 0 after --help, with 2 if the arguments cannot be parsed.
    """
    look_here_last()
    return ended_by_reader(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(words: Sequence[str]) -> int:
    parser = _parser(words)
    if not words:
        parser.print_help()
        return 0
    arguments = parser.parse_args(words)
    try:
        if arguments.command in extras.NEEDS:
            extras.require(arguments.command)
        return arguments.run(arguments)
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and is_reader_gone():
            raise
        print(f"error: {printable(' '.join(_reason(error).split()))}", file=sys.stderr)
        return BAD_INPUT


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    return (
        f"{error.filename}: {error.strerror}; {_REMEDIES.get(error.errno or 0, 'check the path and its permissions')}"
    )


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="trm",
        description="Train tool-using agents with Trust Region Masking (arXiv:2512.23075), evaluate and look at them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm bounds --horizon 4096 --delta 1e-4 --kl-seq 0.01\n\n"
        "trm COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"{extras.DISTRIBUTION} {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=CommandParser)
    # options before a subcommand take no value, so the first word that is not an option is the subcommand
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        if name == asked:
            added = importlib.import_module(command.module).add_parser(subparsers, command.summary)
            if command.more:
                importlib.import_module(command.more).add_action(added)
        else:
            subparsers.add_parser(name, help=command.summary)
    return parser


if __name__ == "__main__":
    sys.exit(main())
