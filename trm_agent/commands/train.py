"""`trm train`: train an agent; the same as `python -m trm_agent.train`."""

from __future__ import annotations

import argparse
from typing import cast

from trm_agent import train
from trm_agent.runs.arguments import CommandParser, describe


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command's arguments."""
    parser = cast("CommandParser", subparsers.add_parser("train", help=summary))
    describe(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train.

    Args:
        arguments: `task`, `cfg` and `overrides` of the parser.

    Returns:
        0 if the run is complete, 1 if it stopped, 2 after bad input.
    """
    return train.run(arguments)
