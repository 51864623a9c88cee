"""`trm sandbox serve`: a sandbox over HTTP."""

from __future__ import annotations

import argparse
import contextlib
import errno
import resource
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trm_envs.commands.sandbox_arguments import MIB, add_packages, available, limits_of
from trm_fields import refuse

if TYPE_CHECKING:
    from trm_envs.sandbox import Sandbox
    from trm_envs.sandbox.fusion.server import SandboxServer

DESCRIPTORS = 1 << 14
"""Number of descriptors that the server asks for, if the process may."""


def add_serve(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action and its arguments."""
    parser = actions.add_parser(
        "serve",
        help="serve a sandbox over HTTP",
        description="Serve SandboxFusion's schema: POST /run_code, POST /run_jupyter, GET /v1/ping. Python and bash.\n"
        "Without a token whoever reaches the address can run programs; it is this machine alone by default.\n"
        "The limits on requests and connections are printed at the start; docs/sandbox_server.md has them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm sandbox serve --port 8080 --max-concurrent 16 --token-file token.txt --verbose",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to bind; 0 takes a free one (default: 8080)")
    parser.add_argument("--sandbox", default="local", choices=("local", "unsafe"), help="unsafe: no isolation")
    add_packages(parser)
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="programs at once (default: 4 a processor)")
    parser.add_argument("--max-timeout", type=float, default=300.0, metavar="S", help="longest run (default: 300)")
    parser.add_argument("--max-memory-mb", type=int, default=8192, metavar="MB", help="largest memory (default: 8192)")
    parser.add_argument("--max-bodies-mb", type=int, default=64, metavar="MB", help="bodies in memory (default: 64)")
    token = parser.add_argument_group("token", "Every request needs it; clients use http://:TOKEN@host:port.")
    token.add_argument("--token-file", metavar="FILE", help="a file that holds it, readable by you alone")
    token.add_argument("--token", help="the token; everyone on this machine can see it (ps)")
    token.description = f"{token.description}\nWith neither, the environment variable TRM_SANDBOX_TOKEN."
    parser.add_argument("--verbose", action="store_true", help="log a line for each request to the standard error")
    parser.set_defaults(run=serve)


def serve(arguments: argparse.Namespace) -> int:
    """Serve until the process is told to end.

    Args:
        arguments: `host`, `port`, `sandbox`, `packages`, `max_concurrent`, `max_timeout`, `max_memory_mb`,
            `max_bodies_mb`, `token_file`, `token`, `verbose` of the parser.

    Returns:
        0.

    Raises:
        ValueError: a flag's value is not allowed, the address is taken or not ours, or isolation cannot be had.
        OSError: the address cannot be bound for another reason, or the token's file not read.
    """
    import dataclasses

    from trm_envs.packages import check_pins, find_packages
    from trm_envs.sandbox import LocalSandbox
    from trm_envs.sandbox.fusion import door
    from trm_envs.sandbox.fusion.bounds import Bounds
    from trm_envs.sandbox.fusion.jobs import MOST
    from trm_envs.sandbox.fusion.server import SandboxServer
    from trm_envs.sandbox.fusion.server import serve as serve_until_told
    from trm_envs.sandbox.shared import shared_sandbox

    pins = check_pins("--packages", arguments.packages)
    asked = limits_of(arguments.max_timeout, "--max-timeout", arguments.max_memory_mb, "--max-memory-mb")
    if not 32 <= arguments.max_bodies_mb <= 1 << 16:
        refuse("--max-bodies-mb", arguments.max_bodies_mb, "32 to 65536", "give e.g. 64")
    token, where = door.find_token(arguments.token, arguments.token_file)
    warning = door.warning(arguments.host, token)
    if warning is not None and arguments.sandbox == "unsafe" and token is None:
        raise ValueError(
            f"--sandbox unsafe with --host {arguments.host}: whoever reaches it could do anything on this machine; "
            "pass --token-file, or bind 127.0.0.1"
        )
    bounds = dataclasses.replace(Bounds(), all_body_bytes=arguments.max_bodies_mb * MIB)
    with contextlib.ExitStack() as stack:
        if arguments.sandbox == "local":
            with available():
                sandbox: Sandbox = LocalSandbox(
                    max_concurrent=arguments.max_concurrent, packages=find_packages(pins, "--packages")
                )
            stack.callback(sandbox.close)
        else:
            sandbox = shared_sandbox(arguments.sandbox, pins)
        stack.enter_context(_bound(arguments.host, arguments.port))
        served = SandboxServer(
            sandbox,
            host=arguments.host,
            port=arguments.port,
            max_concurrent=arguments.max_concurrent,
            most=dataclasses.replace(MOST, wall_s=asked.wall_s, memory_bytes=asked.memory_bytes),
            token=token,
            bounds=bounds.for_descriptors(_raise_descriptors()),
            log=door.log_to_stderr if arguments.verbose else None,
        )
        for each in filter(None, (warning, where)):
            print(each, file=sys.stderr, flush=True)
        serve_until_told(served, lambda address: _tell(f"serving {arguments.sandbox} at {address}", served))
    return 0


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[None]:
    """Say which address cannot be bound, and what to choose instead."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            refuse(
                "--port", port, f"a port that is free on {host}", "choose --port 0 for a free one, or end its server"
            )
        if error.errno == errno.EACCES:
            refuse("--port", port, "a port that this user may bind", "choose --port 1024 or above")
        if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            refuse("--host", host, "an address of this machine", "choose --host 127.0.0.1")
        raise


def _raise_descriptors() -> int:
    """Let this process open as many descriptors as it may, up to `DESCRIPTORS`; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] if soft != resource.RLIM_INFINITY else DESCRIPTORS


def _tell(line: str, served: SandboxServer) -> None:
    print("\n".join([line, "limits on requests and connections:", *served.bounds.lines()]), flush=True)
