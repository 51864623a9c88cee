"""Redirect library output to a log file."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def logging_to(name: str, file: Path | None) -> Iterator[None]:
    """Redirect a library's logger to a file; None leaves it where it is."""
    if file is None:
        yield
        return
    log = logging.getLogger(name)
    before = list(log.handlers)
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.handlers = [handler]
    try:
        yield
    finally:
        log.handlers = before
        handler.close()


@contextmanager
def output_to(file: Path | None) -> Iterator[None]:
    """Redirect this process's output to a file, also output from below Python; None leaves it on the screen."""
    if file is None:
        yield
        return
    _flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        with file.open("ab") as stream:
            for descriptor in (1, 2):
                os.dup2(stream.fileno(), descriptor)
        yield
    finally:
        _flush()
        for descriptor, screen in zip((1, 2), kept, strict=True):
            os.dup2(screen, descriptor)
            os.close(screen)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
