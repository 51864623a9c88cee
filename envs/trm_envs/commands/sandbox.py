"""`trm sandbox`: run one untrusted program, serve a sandbox over HTTP, or say which limits hold here."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trm_envs.commands.sandbox_arguments import add_packages, available, limits_of
from trm_envs.commands.sandbox_check import add_check
from trm_envs.commands.sandbox_serve import add_serve

if TYPE_CHECKING:
    from trm_envs.sandbox import Result

KEYS = ("status", "stdout", "stderr", "return_code", "duration_s")
NOT_OK = 1
SUFFIXES = {".sh": "bash", ".bash": "bash"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "sandbox",
        help=summary,
        description="Run untrusted programs in isolation: one file, or those that clients send over HTTP.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm sandbox run program.py --timeout 5 --json\n  trm sandbox serve --port 8080",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_run(actions)
    add_serve(actions)
    add_check(actions)


def _add_run(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "run",
        help="run a file and print what it prints",
        description="Run a Python or bash file. Exit code: 0 it ended with return code 0, 1 it did not, 2 bad input.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm sandbox run program.py --timeout 5 --memory-mb 256 --stdin input.txt --json",
    )
    parser.add_argument("file", metavar="FILE", help="the program, as UTF-8")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds it may take (default: 10)")
    parser.add_argument("--memory-mb", type=int, default=512, metavar="MB", help="memory it may use (default: 512)")
    parser.add_argument("--language", choices=("python", "bash"), help="default: bash for .sh and .bash, else python")
    parser.add_argument("--stdin", metavar="FILE", help="what the program reads (default: nothing)")
    parser.add_argument(
        "--sandbox", default="local", metavar="local|unsafe|URL", help="unsafe: no isolation; URL: a server"
    )
    add_packages(parser)
    parser.add_argument("--json", action="store_true", help=f"print one JSON object: {', '.join(KEYS)}")
    parser.set_defaults(run=run_file)


def run_file(arguments: argparse.Namespace) -> int:
    """Run a program and print its output.

    Args:
        arguments: `file`, `timeout`, `memory_mb`, `language`, `stdin`, `sandbox`, `packages`, `json` of the
            parser.

    Returns:
        0 if the program ended by itself with return code 0, else 1.

    Raises:
        ValueError: a flag's value is not allowed, the file is not UTF-8, or isolation cannot be had.
        OSError: a file cannot be read.
    """
    path = Path(arguments.file)
    try:
        code = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    stdin = Path(arguments.stdin).read_bytes() if arguments.stdin is not None else b""
    limits = limits_of(arguments.timeout, "--timeout", arguments.memory_mb, "--memory-mb")
    language = arguments.language or SUFFIXES.get(path.suffix, "python")
    with available():
        from trm_envs.packages import check_pins
        from trm_envs.sandbox.shared import shared_sandbox

        pins = check_pins("--packages", arguments.packages)
        result = shared_sandbox(arguments.sandbox, pins).run(code, language, stdin, limits=limits)
    if arguments.json:
        record = {name: getattr(result, name) for name in KEYS}
        print(json.dumps({**record, "status": result.status.value}))
    else:
        _write(sys.stdout, result.stdout)
        _write(sys.stderr, result.stderr)
    if not result.ok and (result.message or not arguments.json):
        print(_ending(result), file=sys.stderr)
    return 0 if result.ok else NOT_OK


def _write(stream: object, text: str) -> None:
    # a terminal that is not UTF-8 must not make the command fail
    stream.buffer.write(text.encode("utf-8", "replace"))  # type: ignore[attr-defined]
    stream.flush()  # type: ignore[attr-defined]


def _ending(result: Result) -> str:
    code = f" {result.return_code}" if result.return_code is not None else ""
    why = f": {result.message}" if result.message else ""
    return f"trm sandbox run: {result.status.value}{code} after {result.duration_s:.2f} s{why}"
