"""Python's root logger: a package of vLLM's HTTP server sets it to ERROR, and so mutes everybody's warnings."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_root_logger() -> Iterator[None]:
    """Give the root logger and its handlers the levels back that they had before the block."""
    root = logging.getLogger()
    level, handlers = root.level, [(handler, handler.level) for handler in root.handlers]
    try:
        yield
    finally:
        root.setLevel(level)
        for handler, before in handlers:
            handler.setLevel(before)
