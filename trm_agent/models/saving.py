"""Load and save models without transformers' own bars, which would run into ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def without_bars() -> Iterator[None]:
    """Let transformers draw no bar of progress."""
    from transformers.utils import logging

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def save_model(model: Any, folder: Path) -> None:
    """Write weights, configuration and generation settings into a folder."""
    with without_bars():
        model.save_pretrained(folder)
