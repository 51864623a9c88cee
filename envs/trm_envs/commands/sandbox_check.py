"""`trm sandbox check`: which limits hold on this machine, by what, and what is missing."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trm_envs.sandbox.local.cgroups import Groups

UNFIT = 1


def add_check(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action's arguments."""
    parser = actions.add_parser(
        "check",
        help="say which limits hold on this machine, and by what",
        description="Say which limits of the local sandbox hold on this machine, by what, and what is missing.\n"
        "Exit code: 0 programs can be isolated and every demand is met, 1 not, 2 bad input.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm sandbox check --require memory_cgroup freezer --json",
    )
    parser.add_argument(
        "--require", nargs="+", metavar="DEMAND", help="demands, as in sandbox.require (docs/sandbox.md)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: isolated, why, limits, rooms")
    parser.set_defaults(run=check)


def check(arguments: argparse.Namespace) -> int:
    """Print the facts.

    Args:
        arguments: `require` and `json` of the parser.

    Returns:
        0 if programs can be isolated here and the demands are met, else 1.

    Raises:
        ValueError: there is no such demand.
    """
    from trm_envs.sandbox import LocalSandbox, SandboxUnavailable
    from trm_envs.sandbox.local import demands, holds
    from trm_envs.sandbox.local.cgroups import groups_of_this_process

    is_isolated, why = False, ""
    try:
        with LocalSandbox(require=()):
            is_isolated = True
        holds.check(arguments.require or demands.demanded(), groups_of_this_process())
    except SandboxUnavailable as error:
        why = str(error)
    found = report(groups_of_this_process(), is_isolated, why)
    print(json.dumps(found) if arguments.json else text(found))
    return UNFIT if why else 0


def report(groups: Groups, is_isolated: bool, why: str) -> dict[str, Any]:
    """Return the facts as plain values.

    Args:
        groups: the control groups of this process.
        is_isolated: whether the sandbox started; else no limit holds.
        why: the reason for which it did not, or for which a demand is not met; "" if all is well.
    """
    from trm_envs.sandbox.local import holds

    return {
        "isolated": is_isolated,
        "why": why,
        "limits": [dataclasses.asdict(hold) for hold in holds.holds(groups) if is_isolated],
        "rooms": [dataclasses.asdict(room) for room in holds.rooms()],
    }


def text(found: dict[str, Any]) -> str:
    """Return the facts as lines for people."""
    lines = ["programs can be isolated here" if found["isolated"] else "no program can be isolated here"]
    lines += [found["why"]] if found["why"] else []
    for limit in found["limits"]:
        lines.append(f"{limit['name']:<14}{limit['by']}")
        if limit["missing"]:
            lines.append(f"{'':<14}missing: {limit['missing']}")
    if found["isolated"]:
        least = found["rooms"][0]
        lines.append(f"{'sessions':<14}room for {least['sessions']}, by {least['name']}; for more: {least['remedy']}")
    return "\n".join(lines)
