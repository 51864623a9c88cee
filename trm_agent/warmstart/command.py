"""`trm warmstart`: its arguments, its checks, and what it says."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm_agent.warmstart.spec import WarmStartSpec, flag_of
from trm_fields import refuse, settings_of

if TYPE_CHECKING:
    from trm_agent.evaluate.plan import Environment
    from trm_agent.warmstart.starting import Outcome, Progress

NANO = "nano"
INTERRUPTED_CODE, FAILED = 130, 1
DESCRIPTION = """Let a pretrained model imitate an environment's scripted solver, until it succeeds so often that
reinforcement learning has something to reinforce, and no oftener.

Steps are supervised, on the model's own tokens, in its own chat template. Now and then held-out tasks are played at
temperature 1 with the average of its weights; where their success has passed the target, weights between the last two
averages are kept. Ctrl-C and --max-seconds keep the average of the steps so far."""
EPILOG = """example:
  trm warmstart --model smollm2 --env chain_math --horizon 8 --out starts/smollm2
  trm train experiment=math_smollm2 actor_rollout_ref.model.path=starts/smollm2
  trm eval starts/smollm2 --env chain_math --horizons 8 16 32

FOLDER/warmstart.json says what was done. A folder that was stopped early goes on as the --model of another one."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "warmstart",
        help=summary,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    parser.add_argument("--model", required=True, metavar="MODEL", help="a Hugging Face folder, a hub id, or smollm2")
    parser.add_argument("--env", required=True, metavar="NAME", help="a choice of conf/env, or MODULE:ID of your own")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="a new or an empty folder")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="arguments of the environment"
    )
    for item in settings_of(WarmStartSpec):
        default = "" if item.default in (None, ()) else f" (default: {item.default})"
        several: dict[str, Any] = {"nargs": "+"} if item.name == "imitate" else {}
        parser.add_argument(
            flag_of(item.name),
            type=_type_of(item.name),
            default=argparse.SUPPRESS,
            metavar="H" if several else item.name.rpartition("_")[2].upper(),
            help=f"{item.doc[0].lower()}{item.doc[1:].rstrip('.')}{default}",
            **several,
        )
    parser.set_defaults(run=run)


def _type_of(name: str) -> Callable[[str], Any]:
    floats = ("target_success", "max_seconds", "learning_rate")
    return float if name in floats else str if name == "dtype" else int


def run(arguments: argparse.Namespace) -> int:
    """Warm-start a model.

    Args:
        arguments: of the parser.

    Returns:
        0; 1 if the target was not reached, 130 if it was interrupted: the folder is there in both cases.

    Raises:
        ValueError: something does not exist, or cannot work.
    """
    from trm_agent.models.making import check_empty

    given = vars(arguments)
    spec = WarmStartSpec(**{item.name: given[item.name] for item in settings_of(WarmStartSpec) if item.name in given})
    folder = arguments.out.expanduser()
    check_empty(folder)
    environment = _environment(arguments.env, arguments.set, spec.horizon)
    path = _path(arguments.model)

    from trm_agent.warmstart.pretrained import load_model, load_reader
    from trm_agent.warmstart.starting import WarmStarting, facts_of, write

    reader = load_reader(path, environment.kwargs)
    model, peft_model = load_model(path, spec.dtype, spec.lora_rank)
    with _bar(spec) as bar:
        starting = WarmStarting(
            model, reader, environment.id, environment.module, spec, lambda progress: _show(bar, progress, spec)
        )
        for line in (*reader.notes, _announced(starting, arguments.model, spec)):
            bar.write(line, file=sys.stderr)
        check_context(model, starting)
        with _term_as_ctrl_c():
            outcome = starting.run()
    if outcome.progress.state.step == 0:
        _say("stopped before the first step; nothing was written")
        return INTERRUPTED_CODE
    write(folder, model, peft_model, reader.tokenizer, facts_of(outcome, arguments.model, starting.game, spec))
    return _close(outcome, folder, spec)


def _environment(name: str, settings: list[str], horizon: int) -> Environment:
    """Resolve the environment as `trm eval` does.

    Raises:
        ValueError: there is none of that name, or a setting that it does not have.
    """
    from trm_agent.evaluate.environments import changed, changes, named
    from trm_agent.runs.environment_check import Trial, Wording, check_environment
    from trm_agent.tasks import Task
    from trm_agent.warmstart.playing import SPLIT

    environment = changed(named(name), changes(settings, [name]))
    task = Task(environment.id, 0, {"horizon": horizon, "split": SPLIT})
    wording = Wording("--env", "--env", "give your own as MODULE:ID", f"--env {name}", sandbox="--set sandbox")
    check_environment(Trial(environment.id, environment.module, environment.kwargs, [task], [], 1.0), wording)
    return environment


def _path(model: str) -> str:
    from trm_agent.models.smollm2 import SMOLLM2, ensure_smollm2

    if model == NANO:
        refuse(
            "--model",
            model,
            "a pretrained model",
            "trm train makes the nano model by itself, or python -m trm_agent.models.nano",
        )
    return str(ensure_smollm2(say=_say)) if model == SMOLLM2 else model


def check_context(model: Any, starting: Any) -> None:
    """Refuse a horizon beyond the context that a model was made for.

    Raises:
        ValueError: with both lengths.
    """
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    needed = max(starting.longest, *starting.batches.lengths.values())
    if longest is not None and needed > longest:
        refuse(
            "--horizon",
            starting.game.horizon,
            f"horizons whose solved episodes fit into {longest} tokens, the context that the model was made for",
            "lower it, or --imitate",
            because=f"where one has {needed} tokens",
        )


def _announced(starting: Any, model: str, spec: WarmStartSpec) -> str:
    lengths = starting.batches.lengths
    return (
        f"{model} imitates the solver of {starting.game.env_id} at horizons {' '.join(map(str, spec.imitate))} "
        f"({min(lengths.values())} to {max(lengths.values())} tokens), and is played at {spec.horizon} "
        f"({starting.longest} tokens), in {str(starting.model.dtype).removeprefix('torch.')}"
    )


def _bar(spec: WarmStartSpec) -> Any:
    from tqdm import tqdm

    from trm_agent.models.bars import bar_options

    return tqdm(
        desc="warm start", unit="step", total=None if spec.target_success else spec.max_steps, **bar_options(sys.stderr)
    )


def _show(bar: Any, progress: Progress, spec: WarmStartSpec) -> None:
    bar.update(progress.state.step - bar.n)
    told = f"loss {progress.state.loss:.2f}"
    if progress.played.num_tasks:
        told += f", played {progress.played.num_successes}/{progress.played.num_tasks}"
    elif progress.hint < float("inf"):
        told += f", not played: {progress.hint:.0f} nats from the solver"
    if spec.target_success:
        told += f", until {100 * spec.target_success:.0f} %"
    is_news = progress.num_episodes > getattr(bar, "episodes_shown", 0)
    bar.episodes_shown = progress.num_episodes
    bar.set_postfix_str(told, refresh=is_news)


@contextmanager
def _term_as_ctrl_c() -> Iterator[None]:
    """Let a polite end keep what was learnt, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _close(outcome: Outcome, folder: Path, spec: WarmStartSpec) -> int:
    from trm_agent.runs.rates import wilson

    final, progress = outcome.final, outcome.progress
    rate = "not played"
    if final.num_tasks:
        low, high = wilson(final.rate, final.num_tasks)
        rate = (
            f"{100 * final.rate:.0f} % of {final.num_tasks} held-out tasks at horizon {spec.horizon} "
            f"(95 % interval {100 * low:.0f} to {100 * high:.0f})"
        )
    print(
        f"{folder}: {outcome.ended} after {progress.state.step} steps, {progress.num_tokens:,} tokens and "
        f"{outcome.seconds:.0f} s; {rate}"
    )
    if outcome.ended == "interrupted":
        return INTERRUPTED_CODE
    if outcome.ended == "target not reached":
        _say(
            f"error: {spec.target_success} was wanted; go on with --model {folder}, or raise --max-steps, --max-seconds"
        )
        return FAILED
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
