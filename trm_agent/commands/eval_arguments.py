"""The arguments of `trm eval`."""

import argparse
from pathlib import Path

from trm_fields import refuse

DESCRIPTION = """Play held-out tasks with one or more checkpoints, all on the same tasks,
through the episode loop of the training.

CHECKPOINT is one of
  RUN, RUN@STEP     a training run's last checkpoint, or that of a step
  start:RUN         what the run began with
  FOLDER            a Hugging Face model, or verl's global_step_N
  nano              the nano model's warm start
  smollm2           SmolLM2-135M as it is
  http://...#MODEL  an OpenAI-compatible server; needs --tokenizer
each may be LABEL=CHECKPOINT. The others are compared with the first one: name the older one first. Without --suite,
--env and --validation the environment is that of the first run.

Results are written as they come. Interrupt it at any moment: the same command goes on, and plays what is missing or
has failed. More --samples, --tasks or a larger --limit go on too; everything else must be as it was."""

EPILOG = """token budgets:
  limits in a configuration are for its longest horizon. Beyond it, turns, tool calls, tokens and the time of an episode
  grow in proportion, up to the model's context. --set limits.max_response_tokens=N (or another limit) holds at every
  horizon. With --env, a model that is not the nano model gets the token budgets of the experiments on a GPU.

example:
  trm eval start:runs/math_nano-seed0-001 runs/math_nano-seed0-001 --suite nano_long
  trm eval before=nano after=runs/math_nano-seed0-001 --env chain_math --horizons 4 8 16 --samples 10
  trm eval runs/math_nano-seed0-001@30 --validation
  trm eval /models/Qwen3-8B --suite aime25 --rows aime25.jsonl --samples 16"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="see above")
    _add_what(parser)
    _add_how(parser)
    where = parser.add_argument_group("where")
    where.add_argument("--out", type=Path, metavar="DIR", help="default: runs/eval-NAME-NNN, or one to go on with")
    where.add_argument(
        "--save-episodes",
        type=int,
        default=64,
        metavar="N",
        help="how many of each checkpoint keep their tokens, for trm report (default: 64)",
    )
    where.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def check_counts(arguments: argparse.Namespace) -> None:
    """Check the counts, which need no plan.

    Raises:
        ValueError: one is too small.
    """
    for flag, value, least in (
        ("--concurrency", arguments.concurrency, 1),
        ("--save-episodes", arguments.save_episodes, 0),
        ("--tensor-parallel", arguments.tensor_parallel, 1),
    ):
        if value < least:
            refuse(flag, value, f"at least {least}", "leave it out for the default")


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is played")
    what.add_argument("--suite", metavar="NAME", help="a preset of tasks, versioned by a hash")
    what.add_argument("--list-suites", action="store_true", help="show the presets and exit")
    what.add_argument("--rows", metavar="FILE", help="the problems of a suite that asks a file's (aime25, ...)")
    what.add_argument(
        "--env", nargs="+", default=[], metavar="NAME", help="a choice of conf/env, or MODULE:ID of your own"
    )
    what.add_argument("--horizons", type=int, nargs="+", default=[], metavar="N", help="default: the validation's")
    what.add_argument(
        "--validation",
        nargs="?",
        const="",
        metavar="RUN",
        help="exactly what a run's validation plays, to compare with its env/val_success (without RUN: the first "
        "checkpoint's)",
    )
    what.add_argument("--tasks", type=int, metavar="N", help="of each environment (default: 100, or the suite's)")
    what.add_argument("--limit", type=int, metavar="N", help="only the first N of them, for now")
    what.add_argument("--samples", type=int, metavar="K", help="episodes per task (default: 5; 1 at temperature 0)")
    what.add_argument("--task-seed", type=int, metavar="S", help="which tasks (default: 20260101)")
    what.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="keyword arguments of the environments, or limits.NAME; for one of several: ENV.FIELD=VALUE",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how")
    how.add_argument("--temperature", type=float, metavar="T", help="default: 1; 0 takes the likeliest token")
    how.add_argument("--top-p", type=float, metavar="P", help="default: 1")
    how.add_argument("--seed", type=int, default=0, metavar="S", help="of the sampling (default: 0)")
    how.add_argument("--tokenizer", metavar="PATH", help="folder of a tokenizer, where the checkpoint brings none")
    how.add_argument(
        "--template-kwargs",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="variables of the chat template, e.g. enable_thinking=false (default: those of the checkpoint's run)",
    )
    how.add_argument(
        "--roles", nargs="+", metavar="ROLE", help="roles of what answers the model (default: the run's, or tool user)"
    )
    how.add_argument("--concurrency", type=int, default=64, metavar="C", help="episodes at once (default: 64)")
    how.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs for one model (default: 1)")
