"""`trm export`: write a checkpoint of a run as a Hugging Face folder."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

DTYPES = ("float32", "bfloat16", "float16")
SECONDS_BETWEEN_LINES = 5.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "export",
        help=summary,
        description="Write a checkpoint of a run as a Hugging Face folder: weights as safetensors, configuration,\n"
        "tokenizer, chat template and generation configuration. The folder appears complete or not at all.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm export runs/math_nano-seed0-001@40 my_model\n\n"
        'transformers.AutoModelForCausalLM.from_pretrained("my_model") loads it, and so do vLLM and trm eval.',
    )
    parser.add_argument(
        "checkpoint",
        metavar="RUN@STEP",
        help="run and step; a run alone means its last checkpoint, global_step_N itself",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a new or an empty folder")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the weights (default: that of the checkpoint)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export.

    Args:
        arguments: `checkpoint`, `folder` and `dtype` of the parser.

    Returns:
        0.

    Raises:
        ValueError: the checkpoint or the folder cannot be used, or the disk is too small.
    """
    from trm_agent.evaluate.checkpoints.export import check_source, check_target, export
    from trm_agent.evaluate.checkpoints.source import TRAINED, parse_checkpoint

    folder = arguments.folder.expanduser()
    check_target(folder)
    checkpoint = parse_checkpoint(arguments.checkpoint, allowed=TRAINED)
    check_source(checkpoint)
    # as Ctrl-C does, so that nothing half-written is left
    signal.signal(signal.SIGTERM, _stop)
    print(f"{checkpoint.label}: {checkpoint.path} -> {folder}", flush=True)
    done = export(checkpoint, folder, arguments.dtype, Lines())
    print(f"{done.num_parameters:,} parameters, {done.dtype}, {done.num_bytes / 1e6:,.1f} MB: {', '.join(done.files)}")
    return 0


class Lines:
    """A line of progress now and then."""

    def __init__(self) -> None:
        self._last: float | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._last = self._last or now
        if now - self._last > SECONDS_BETWEEN_LINES:
            self._last = now
            print(f"  {done / 1e9:.1f} of {total / 1e9:.1f} GB ({100 * done // total} %)", flush=True)


def _stop(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)
