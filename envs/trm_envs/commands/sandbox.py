"""`trm sandbox`: run one untrusted program, or serve a sandbox over HTTP."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trm_envs.sandbox import Limits, Result, Sandbox

KEYS = ("status", "stdout", "stderr", "return_code", "duration_s")
NOT_OK = 1
SUFFIXES = {".sh": "bash", ".bash": "bash"}
MIB = 1 << 20


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
    _add_serve(actions)


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
    _add_packages(parser)
    parser.add_argument("--json", action="store_true", help=f"print one JSON object: {', '.join(KEYS)}")
    parser.set_defaults(run=run_file)


def _add_serve(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "serve",
        help="serve a sandbox over HTTP",
        description="Serve SandboxFusion's schema: POST /run_code, POST /run_jupyter, GET /v1/ping. Python and bash.\n"
        "Without --token whoever reaches the address can run programs; it is this machine alone by default.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm sandbox serve --port 8080 --max-concurrent 16 --verbose",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to bind; 0 takes a free one (default: 8080)")
    parser.add_argument("--sandbox", default="local", choices=("local", "unsafe"), help="unsafe: no isolation")
    _add_packages(parser)
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="programs at once (default: 4 a processor)")
    parser.add_argument("--max-timeout", type=float, default=300.0, metavar="S", help="longest run (default: 300)")
    parser.add_argument("--max-memory-mb", type=int, default=8192, metavar="MB", help="largest memory (default: 8192)")
    parser.add_argument("--token", help="ask every request for it; clients use http://:TOKEN@host:port")
    parser.add_argument("--verbose", action="store_true", help="log a line for each request to the standard error")
    parser.set_defaults(run=serve)


def _add_packages(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--packages", nargs="+", default=[], metavar="P", help="what programs can import, such as numpy==2.3.5"
    )


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
    limits = _limits(arguments.timeout, "--timeout", arguments.memory_mb, "--memory-mb")
    language = arguments.language or SUFFIXES.get(path.suffix, "python")
    with _available():
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


def serve(arguments: argparse.Namespace) -> int:
    """Serve until the process is told to end.

    Args:
        arguments: `host`, `port`, `sandbox`, `packages`, `max_concurrent`, `max_timeout`, `max_memory_mb`, `token`,
            `verbose` of the parser.

    Returns:
        0.

    Raises:
        ValueError: a flag's value is not allowed, or isolation cannot be had.
        OSError: the address cannot be bound.
    """
    import dataclasses

    from trm_envs.packages import check_pins, find_packages
    from trm_envs.sandbox import LocalSandbox
    from trm_envs.sandbox.fusion import server
    from trm_envs.sandbox.fusion.jobs import MOST
    from trm_envs.sandbox.shared import shared_sandbox

    pins = check_pins("--packages", arguments.packages)
    asked = _limits(arguments.max_timeout, "--max-timeout", arguments.max_memory_mb, "--max-memory-mb")
    warning = server.warning(arguments.host, arguments.token)
    if warning is not None and arguments.sandbox == "unsafe" and arguments.token is None:
        raise ValueError(
            f"--sandbox unsafe with --host {arguments.host}: whoever reaches it could do anything on this machine; "
            "pass --token, or bind 127.0.0.1"
        )
    with contextlib.ExitStack() as stack:
        if arguments.sandbox == "local":
            with _available():
                sandbox: Sandbox = LocalSandbox(
                    max_concurrent=arguments.max_concurrent, packages=find_packages(pins, "--packages")
                )
            stack.callback(sandbox.close)
        else:
            sandbox = shared_sandbox(arguments.sandbox, pins)
        served = server.SandboxServer(
            sandbox,
            host=arguments.host,
            port=arguments.port,
            max_concurrent=arguments.max_concurrent,
            most=dataclasses.replace(MOST, wall_s=asked.wall_s, memory_bytes=asked.memory_bytes),
            token=arguments.token,
            log=server.log_to_stderr if arguments.verbose else None,
        )
        if warning is not None:
            print(warning, file=sys.stderr, flush=True)
        server.serve(served, lambda address: print(f"serving {arguments.sandbox} at {address}", flush=True))
    return 0


@contextlib.contextmanager
def _available() -> Iterator[None]:
    """Turn isolation that cannot be had into bad input, with the way out."""
    from trm_envs.sandbox import SandboxUnavailable

    try:
        yield
    except SandboxUnavailable as error:
        raise ValueError(f"{error} Here: --sandbox unsafe, only for programs that you trust") from error


def _limits(wall_s: float, wall_flag: str, megabytes: int, memory_flag: str) -> Limits:
    from trm_envs.sandbox import Limits
    from trm_envs.sandbox.fusion.schema import with_timeout

    for flag, value, least, most in ((wall_flag, wall_s, 0.01, 86_400), (memory_flag, megabytes, 32, MIB)):
        if not least <= value <= most:
            raise ValueError(f"{flag}: got {value!r}; allowed: {least:g} to {most:g}; see trm sandbox --help")
    return with_timeout(Limits(memory_bytes=megabytes * MIB), wall_s)


def _write(stream: object, text: str) -> None:
    # a terminal that is not UTF-8 must not make the command fail
    stream.buffer.write(text.encode("utf-8", "replace"))  # type: ignore[attr-defined]
    stream.flush()  # type: ignore[attr-defined]


def _ending(result: Result) -> str:
    code = f" {result.return_code}" if result.return_code is not None else ""
    why = f": {result.message}" if result.message else ""
    return f"trm sandbox run: {result.status.value}{code} after {result.duration_s:.2f} s{why}"
