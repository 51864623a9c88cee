"""Arguments that the actions of `trm sandbox` share."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trm_fields import refuse

if TYPE_CHECKING:
    from trm_envs.sandbox import Limits

MIB = 1 << 20


def add_packages(parser: argparse.ArgumentParser) -> None:
    """Add `--packages`."""
    parser.add_argument(
        "--packages", nargs="+", default=[], metavar="P", help="what programs can import, such as numpy==2.3.5"
    )


@contextlib.contextmanager
def available() -> Iterator[None]:
    """Turn isolation that cannot be had into bad input, with the way out."""
    from trm_envs.sandbox import SandboxUnavailable

    try:
        yield
    except SandboxUnavailable as error:
        raise ValueError(f"{error} Here: --sandbox unsafe, only for programs that you trust") from error


def limits_of(wall_s: float, wall_flag: str, megabytes: int, memory_flag: str) -> Limits:
    """Return the limits that two flags give.

    Raises:
        ValueError: if a value is not allowed; it names the flag.
    """
    from trm_envs.sandbox import Limits
    from trm_envs.sandbox.fusion.schema import with_timeout

    for flag, value, least, most in ((wall_flag, wall_s, 0.01, 86_400), (memory_flag, megabytes, 32, MIB)):
        if not least <= value <= most:
            refuse(flag, value, f"{least:g} to {most:g}", "see trm sandbox --help")
    return with_timeout(Limits(memory_bytes=megabytes * MIB), wall_s)
