"""`trm numerics`: its arguments, and what it prints and writes."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from trm_agent.numerics.spec import FORMATS, NumericsSpec, flag_of
from trm_fields import refuse, settings_of

UNHEALTHY, INTERRUPTED = 1, 130
DESCRIPTION = """\
Play long episodes with the rollout engine, recompute the log-probs of the same tokens with the trainer, and say
by depth in the context how far they are apart: the mismatch that no trust region can tell from a change of the policy.

RUN|MODEL is a run folder (its last checkpoint), RUN@STEP, start:RUN, a Hugging Face folder, a hub id, nano or smollm2.
The model samples every turn, and gets the answers that the environment gives its scripted solver, to the context's end:
what it writes decides nothing but the contexts. Engine and trainer are configured as in the run, for a model alone as
this machine's default."""
EPILOG = """example:
  trm numerics smollm2 --engine float32 bfloat16 --trainer float32 bfloat16 --json smollm2.json
  trm numerics runs/math_nano-seed0-001

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
    for side in ("engine", "trainer"):
        parser.add_argument(
            f"--{side}",
            nargs="+",
            choices=FORMATS,
            default=[],
            metavar="FORMAT",
            help=f"number formats of the {side}, {' and '.join(FORMATS)} (default: the run's, or this machine's)",
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
        formats = (arguments.engine or [source.engine_format], arguments.trainer or [source.trainer_format])
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


def _measured(
    source: Any, spec: NumericsSpec, formats: tuple[list[str], list[str]], folder: Path, file: Path | None
) -> bool:
    from trm_agent.numerics.measuring import measure
    from trm_agent.numerics.told import as_json, as_text

    unique = tuple(list(dict.fromkeys(names)) for names in formats)
    measured = measure(source, spec, (unique[0], unique[1]), folder, _say, _bar)
    print(as_text(measured, spec), flush=True)
    if file is not None:
        file.expanduser().write_text(json.dumps(as_json(measured, spec), indent=2) + "\n", encoding="utf-8")
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
