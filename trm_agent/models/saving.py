"""Save a model without transformers' own bar, which would run into ours."""

from pathlib import Path
from typing import Any


def save_model(model: Any, folder: Path) -> None:
    """Write weights, configuration and generation settings into a folder."""
    from transformers.utils import logging

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        if was_shown:
            logging.enable_progress_bar()
