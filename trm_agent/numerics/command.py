"""`trm numerics`: its arguments, and what it prints and writes."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from trm_agent.numerics.spec import FORMATS, SECOND_ENGINE, TRAINER, Formats, NumericsSpec, flag_of
from trm_fields import refuse, settings_of

UNHEALTHY, INTERRUPTED = 1, 130
DESCRIPTION = """\
Play long episodes with the rollout engine, recompute the log-probs of the same tokens with the trainer, with a second
engine or with both, and say by depth in the context how far they are apart: the mismatch that no trust region can tell
from a change of the policy.

RUN|MODEL is a run folder (its last checkpoint), RUN@STEP, start:RUN, a Hugging Face folder, a hub id, nano or smollm2.
The model samples every turn, and gets the answers that the environment gives its scripted solver, to the context's end:
what it writes decides nothing but the contexts. Engine and trainer are configured as in the run, for a model alone as
this machine's default. Each --engine is compared with each --trainer and each --second-engine; with the latter alone no
trainer starts. In the same number format a second engine tells apart sampling token by token, behind the cache of the
turns before, and reading it all anew."""
EPILOG = """example:
  trm numerics smollm2 --engine float32 bfloat16 --trainer float32 bfloat16 --json smollm2.json
  trm numerics runs/math_nano-seed0-001
  trm numerics smollm2 --engine bfloat16 --second-engine bfloat16 float32

Exit status: 0 healthy, 1 not, or engine or trainer failed."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "numerics",
        help=summary,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    parser.add_argument("source", metavar="RUN|MODEL", help="see above")
    default = "the run's, or this machine's"
    for side, whose, otherwise in (
        ("engine", "the engine", default),
        (TRAINER, "the trainer", f"{default}; none with {flag_of(SECOND_ENGINE)}"),
        (SECOND_ENGINE, "a second engine, which reads what the first one played", "none"),
    ):
        parser.add_argument(
            flag_of(side),
            nargs="+",
            choices=FORMATS,
            default=[],
            metavar="FORMAT",
            help=f"number formats of {whose}: {' and '.join(FORMATS)} (default: {otherwise})",
        )
    parser.add_argument("--env", metavar="NAME", help="a choice of conf/env, or MODULE:ID (default: the run's)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="arguments of the environment"
    )
    for item in settings_of(NumericsSpec):
        default = "" if item.default is None else f" (default: {item.default})"
        parser.add_argument(
            flag_of(item.name),
            type=int,
            default=argparse.SUPPRESS,
            metavar="N",
            help=f"{item.doc[0].lower()}{item.doc[1:].rstrip('.')}{default}",
        )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write.

    Args:
        arguments: of the parser.

    Returns:
        0 if every pair is healthy; 1 if one is not, or engine or trainer failed; 130 if it was interrupted.

    Raises:
        ValueError: something does not exist, or does not fit.
    """
    from trm_agent.extras import require_engine

    given = vars(arguments)
    spec = NumericsSpec(**{item.name: given[item.name] for item in settings_of(NumericsSpec) if item.name in given})
    if arguments.json is not None and not arguments.json.expanduser().parent.is_dir():
        refuse("--json", str(arguments.json), "a file in a folder that exists", "make the folder, or give another")
    require_engine("numerics")

    from trm_agent.numerics.source import CPU, GPU, find_source

    folder = Path(tempfile.mkdtemp(prefix="trm-numerics-"))
    keeps_logs = False
    try:
        source = find_source(arguments.source, arguments.env, arguments.set, GPU if _has_cuda() else CPU, _say)
        formats = _formats(arguments, source)
        healthy = _measured(source, spec, formats, folder, arguments.json)
        return 0 if healthy else UNHEALTHY
    except KeyboardInterrupt:
        _say("\nstopped; nothing was written")
        return INTERRUPTED
    except RuntimeError as error:  # the engine, the trainer or the nano model's warm start
        keeps_logs = True
        _say(f"error: {error}\nlogs of engine and trainer, as far as they came: {folder}")
        return UNHEALTHY
    finally:
        if not keeps_logs:
            shutil.rmtree(folder, ignore_errors=True)


def _formats(arguments: argparse.Namespace, source: Any) -> Formats:
    """Return the number formats of all sides, each once."""
    trainers = arguments.trainer or ([] if arguments.second_engine else [source.trainer_format])
    sides = (arguments.engine or [source.engine_format], trainers, arguments.second_engine)
    return Formats(*(tuple(dict.fromkeys(names)) for names in sides))


def _measured(source: Any, spec: NumericsSpec, formats: Formats, folder: Path, file: Path | None) -> bool:
    from trm_agent.numerics.measuring import measure
    from trm_agent.numerics.told import as_json, as_text

    measured = measure(source, spec, formats, folder, _say, _bar)
    print(as_text(measured, spec), flush=True)
    if file is not None:
        figures = json.dumps(as_json(measured, spec), indent=2, allow_nan=False)
        file.expanduser().write_text(figures + "\n", encoding="utf-8")
    return all(pair.verdict.is_healthy for pair in measured.pairs)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _bar(name: str, tokens: int) -> Any:
    from tqdm import tqdm

    from trm_agent.models.bars import bar_options

    return tqdm(desc=name, unit="token", total=tokens, **bar_options(sys.stderr))


def _say(line: str) -> None:
    # only results go to the standard output
    print(line, file=sys.stderr, flush=True)
