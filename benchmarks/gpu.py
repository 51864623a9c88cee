"""Checks that only a GPU can answer, the most valuable first: each runs alone, with a limit of its own.

python -m benchmarks.gpu [CHECK ...] [--out gpu.json] [--seconds 780]
python -m benchmarks.gpu --list
python -m benchmarks.gpu --small    on two cores without a GPU: shows that a check runs, and nothing else

Each check is a process; one that fails, or takes longer than its limit, ends alone. After each the file is written, so
that a machine that goes away keeps what was found; a check that is in the file is not run again (--again). At the end
one table: every figure, its floor or ceiling where it has one, and whether it holds.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# seconds in which a check that met its limit may end its own processes
GRACE_S = 15


@dataclass(frozen=True)
class Check:
    """A row of the kit."""

    name: str
    """Its name on the command line, and that of the function in benchmarks/gpu_*.py which finds its figures."""
    question: str
    """What it answers, one line."""
    limit_s: float
    """Seconds after which it is ended."""


# most valuable first: time on a machine with a GPU is short
CHECKS = (
    Check("machine", "which card, driver and packages; rates of matrix products and copies", 60),
    Check("nano", "does training on a GPU reach the held-out success of a CPU, in bf16", 240),
    Check("attention", "packed attention against float64, padded sdpa and flex_attention: error, tokens a second", 90),
    Check("smollm2", "steps of a pretrained model at long horizons: acceptance and KL by depth", 300),
    Check(
        "divergences", "exact and top-K divergences against the textbook form and the time to read the logits once", 90
    ),
    Check("loss", "the loss with all diagnostics against verl's own", 60),
    Check("plain_verl", "plain verl on the same card: tokens a second, seconds a step", 240),
    Check("growth", "time and memory of an update from 2k to 32k tokens", 120),
    Check("memory_plan", "peak memory of an update against the plan's", 120),
    Check("separate", "rollout servers on a GPU of their own: seconds a step, waiting, acceptance by lag", 300),
    Check("asynchronous", "colocate_async against synchronous, a quarter of the episodes long: seconds a step", 300),
    Check("separate_gain", "separate_async on two GPUs against synchronous on both, the same: seconds a step", 300),
    Check("start", "the start of a run: workers that are forks against others, graphs against none", 600),
)


@dataclass(frozen=True)
class Options:
    """What a call of the kit was asked for."""

    out: Path
    seconds: float
    small: bool
    again: bool


def run(checks: list[Check], options: Options) -> dict[str, Any]:
    """Run the checks one after the other; return all that is known, by name.

    Args:
        checks: in the order in which they are run.
        options: where the file is, and the seconds that all of them may take.
    """
    started, found = time.monotonic(), stored(options.out)
    for check in checks:
        if check.name in found and not options.again:
            print(f"{check.name}: in {options.out} already", file=sys.stderr, flush=True)
            continue
        left = options.seconds - (time.monotonic() - started)
        if left < GRACE_S:
            print(f"{check.name}: not run, {options.seconds:.0f} s are over", file=sys.stderr, flush=True)
            continue
        print(f"{check.name}: {check.question} (at most {min(check.limit_s, left):.0f} s)", file=sys.stderr, flush=True)
        found[check.name] = run_alone(check, min(check.limit_s, left), options)
        print(
            f"{check.name}: {found[check.name]['state']} after {found[check.name]['seconds']:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return found


def stored(out: Path) -> dict[str, Any]:
    """Return what an earlier call has found."""
    return json.loads(out.read_text()) if out.exists() else {}


def run_alone(check: Check, limit_s: float, options: Options) -> dict[str, Any]:
    """Run one check in a process of its own; return its figures, or why there are none."""
    log = options.out.with_name(f"{options.out.stem}-{check.name}.log")
    answer = options.out.with_name(f"{options.out.stem}-{check.name}.json")
    answer.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_checks",
        check.name,
        str(answer),
        *(["--small"] if options.small else []),
    ]
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        try:
            state = "done" if process.wait(limit_s) == 0 else "failed"
        except subprocess.TimeoutExpired:
            state = "met its limit"
        _end(process)
    figures = json.loads(answer.read_text()) if answer.exists() else []
    answer.unlink(missing_ok=True)
    told = (
        {} if state == "done" else {"log": log.name, "last": log.read_text(errors="replace").strip().splitlines()[-5:]}
    )
    return {
        "state": state,
        "seconds": round(time.monotonic() - started, 1),
        "small": options.small,
        "figures": figures,
        **told,
    }


def _end(process: subprocess.Popen) -> None:
    """End a check's whole group: a training first stops by itself, and takes Ray with it."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None and number == signal.SIGINT:
            continue
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue


def as_table(found: dict[str, Any]) -> str:
    """Return every figure with its bound, one line each, and a line for each check without one."""
    lines = [f"{'check':<20}{'figure':<46}{'value':>12} {'unit':<12}{'bound':<22}"]
    for name, result in found.items():
        name = f"{name}, small" if result["small"] else name
        if result["state"] != "done" or not result["figures"]:
            lines.append(f"{name:<20}{result['state']} after {result['seconds']:.0f} s; see {result.get('log', '')}")
        for figure in result["figures"]:
            told = f"{figure['name']:<46}{_shown(figure['value']):>12} {figure['unit']:<12}"
            lines.append(f"{name:<20}{told}{_bound(figure)}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _bound(figure: dict[str, Any]) -> str:
    """Return a figure's bound, with whether it holds."""
    for kind, holds in (
        ("at_least", lambda value, bound: value >= bound),
        ("at_most", lambda value, bound: value <= bound),
    ):
        bound = figure.get(kind)
        if bound is not None:
            return f"{kind.replace('_', ' ')} {_shown(bound)}: {'holds' if holds(figure['value'], bound) else 'FAILS'}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="\n".join(__doc__.splitlines()[2:6]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [check.name for check in CHECKS]
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="checks to run, in the kit's order (default: all)")
    parser.add_argument("--list", action="store_true", help="print the checks and run nothing")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="file of what was found (default: gpu.json)")
    parser.add_argument("--seconds", type=float, default=780, help="seconds that all checks may take (default: 780)")
    parser.add_argument("--small", action="store_true", help="sizes for two cores without a GPU")
    parser.add_argument("--again", action="store_true", help="also run checks that the file holds already")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.checks) - set(names)):
        parser.error(f"unknown checks {', '.join(unknown)}; allowed: {', '.join(names)}")
    if arguments.list:
        print("\n".join(f"{check.name:<14}{check.limit_s:>5.0f} s  {check.question}" for check in CHECKS))
        return 0
    chosen = [check for check in CHECKS if not arguments.checks or check.name in arguments.checks]
    options = Options(arguments.out.resolve(), arguments.seconds, arguments.small, arguments.again)
    found = run(chosen, options)
    print(as_table(found))
    # of those that were asked for
    return int(any(found.get(check.name, {}).get("state") != "done" for check in chosen))


if __name__ == "__main__":
    sys.exit(main())
