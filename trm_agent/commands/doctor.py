"""`trm doctor`: report the abilities of this machine, with a remedy for each one that is missing."""

from __future__ import annotations

import argparse
import json

CANNOT_TRAIN = 1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "doctor",
        help=summary,
        description="Look at packages, accelerators, sandbox, memory, disk and ports, and name a remedy for each "
        "that is not as it should be. Exit code: 0 the main job can run here, 1 it cannot.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm doctor\n  trm doctor --json",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: can_train, sections")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report.

    Args:
        arguments: `json` of the parser.

    Returns:
        0 if the main job can run here, else 1.
    """
    from trm_agent.doctor.sections import as_text, can_train, examine

    findings = examine()
    if arguments.json:
        sections = {title: [finding.as_json() for finding in each] for title, each in findings.items()}
        print(json.dumps({"can_train": can_train(findings), "sections": sections}, indent=2))
    else:
        print(as_text(findings))
    return 0 if can_train(findings) else CANNOT_TRAIN
