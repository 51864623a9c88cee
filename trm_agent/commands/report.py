"""`trm report`: show runs and evaluations on one HTML page."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from trm_agent.runs.data_text import printable
from trm_fields import refuse

if TYPE_CHECKING:
    from trm_agent.report.build import Report

WATCH_SECONDS = 10.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "report",
        help=summary,
        description="Write one self-contained HTML page (it asks the network for nothing) about runs and evaluations. "
        "Episodes are there if the run dumped them: actor_rollout_ref.actor.policy_loss.dump.every=N.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm report runs/math_nano-seed0-001\n"
        "  trm report runs/math_nano-seed0-001 runs/math_nano-seed1-001 --out both.html\n"
        "  trm report runs/math_nano-seed0-001 --watch --open",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run or of an evaluation")
    parser.add_argument("--out", type=Path, help="the page (default: RUN/report.html; of several: ./report.html)")
    parser.add_argument("--max-episodes", type=int, default=2000, metavar="N", help="episodes in the viewer (2000)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser once it is written")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="for the tokens' texts (default: the run's)")
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=WATCH_SECONDS,
        metavar="SECONDS",
        help=f"write the page again when a run's files change, looking every {WATCH_SECONDS:g} s, until it is finished",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page.

    Args:
        arguments: the parsed arguments.

    Returns:
        0.

    Raises:
        ValueError: a folder is neither a run nor an evaluation, or an option is out of range.
    """
    from trm_agent.report.build import build_report
    from trm_agent.report.watch import watch

    seconds = arguments.watch
    if seconds is not None and not seconds > 0:
        refuse("--watch", seconds, "seconds above 0", "give e.g. --watch 10")
    default = arguments.runs[0] / "report.html" if len(arguments.runs) == 1 else Path("report.html")
    out = arguments.out or default

    def build() -> Report:
        return build_report(arguments.runs, out, arguments.max_episodes, arguments.tokenizer, seconds)

    is_to_open = arguments.open

    def show(report: Report) -> None:
        nonlocal is_to_open
        _tell(report)
        if is_to_open:
            is_to_open = False
            _open(report.path)

    if seconds is None:
        show(build())
        return 0
    try:
        watch(arguments.runs, seconds, build, show)
    except KeyboardInterrupt:
        print(f"stopped; the page stays in {out}")
    return 0


def _open(page: Path) -> None:
    address = page.resolve().as_uri()
    has_display = sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if not (has_display and webbrowser.open(address)):
        print(f"no browser could be opened here: copy the page, or open {printable(address)}")


def _tell(report: Report) -> None:
    for note in report.notes:
        print(printable(f"note: {note}"), file=sys.stderr)
    shown = f"{report.num_episodes} episodes"
    if report.available > report.num_episodes:
        shown += f" of {report.available}, evenly spaced (--max-episodes)"
    told = f"{report.path}: {report.num_bytes / 1e6:.1f} MB, {shown}, made in {report.seconds:.1f} s"
    print(printable(told), flush=True)
