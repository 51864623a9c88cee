"""Train an agent: `trm train [--help] [--cfg] [--task math|code] [hydra overrides]`.

Composes conf/, refuses settings that cannot work, finds the run folder, and hands over to verl's `run_ppo`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from trm_agent.extras import require, require_engine
from trm_agent.fitting import fitting_model
from trm_agent.fork_server import handle as fork_server
from trm_agent.fork_server.calls import TRANSFORMERS, apart
from trm_agent.runs import results
from trm_agent.runs.announcing import announce, completed
from trm_agent.runs.arguments import CommandParser, composed, describe, show
from trm_agent.runs.compose import expected_variables, plain
from trm_agent.runs.data_text import printable
from trm_agent.runs.defaults import defaults_of
from trm_agent.runs.extend import SCHEDULED_OPTIMIZER, compose_extension, go_on, open_extended
from trm_agent.runs.folder import CHECKPOINTS, LOG_FILE, RunFolder, checkpoint_folder, discard, open_run_folder
from trm_agent.runs.forked_workers import forks
from trm_agent.runs.hidden_gpus import for_logical_devices
from trm_agent.runs.leftovers import remove_stale_sockets, remove_stale_weights
from trm_agent.runs.origin import INIT_FROM, check_modes, check_origin, check_own, check_resumed, needs_first_weights
from trm_agent.runs.progress import forget_progress
from trm_agent.runs.reader import ended_by_reader
from trm_agent.runs.rollout_pool import devices_here
from trm_agent.runs.scorer_version import FIELD
from trm_agent.runs.screen import Screen, duration, quiet
from trm_agent.runs.search_path import look_here_last
from trm_agent.runs.sessions import begin_session
from trm_agent.runs.success_table import table_of
from trm_envs.scoring import SCORER_VERSION
from trm_fields import refuse

if TYPE_CHECKING:
    from omegaconf import DictConfig

BAD_INPUT = 2


class BadInput(Exception):
    """A refusal before Ray starts, unlike a ValueError somewhere in the run."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 success, 1 failure, 2 bad input."""
    parser = CommandParser(prog="python -m trm_agent.train")
    describe(parser)
    look_here_last()
    return ended_by_reader(lambda: run(parser.parse_args(argv)))


def run(arguments: argparse.Namespace) -> int:
    """Train as the arguments of `trm_agent.runs.arguments` say; returns the exit code."""
    started = time.time()
    try:
        with ExitStack() as unless_trained:
            unless_trained.callback(fork_server.stop)
            prepared = _prepared(arguments)
            if isinstance(prepared, int):
                return prepared
            unless_trained.pop_all()
        return train(*prepared, started)
    except (Exception, KeyboardInterrupt) as error:
        from trm_agent.runs.endings.closing import close_command

        return close_command(error)


def _prepared(arguments: argparse.Namespace) -> int | tuple[DictConfig, RunFolder, str]:
    """Return what `train` takes; an exit code if there is nothing to train."""
    overrides = list(arguments.overrides)
    try:
        require("train")
        if not (arguments.cfg or arguments.check) and (variables := expected_variables(overrides)) is not None:
            fork_server.start_at_once(variables)
        if arguments.extend is None:
            config, stored = composed(arguments, overrides), None
        else:
            config, stored = compose_extension(Path(arguments.extend), overrides)
        if arguments.cfg:
            return show(config)
        rows = _refuse_or_pin(config)
        if stored is not None:
            folder = open_extended(Path(arguments.extend), config, stored, arguments.schedule, SCORER_VERSION)
        elif arguments.check:
            return _look(config, rows)
        else:
            folder = _open_folder(config, overrides)
        if arguments.check:
            return _look(config, "\n".join([rows, *folder.notes]).strip(), folder.step)
    except ValueError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return BAD_INPUT
    if rows:
        print(rows, flush=True)
    announce(config, folder)
    if folder.state == "finished":
        print(completed(folder))
        return 0
    try:
        from trm_agent.runs.endings.disk import check_room
        from trm_agent.runs.fit_cpu_engine import fit

        check_own(folder)
        if not folder.step:
            check_origin(config)
        config.hardware.fork_server = forks(config)
        fork_server.start_early(config.hardware.fork_server, config.hardware.env_vars)
        model = _suited_model(config, folder)
        fitted = fit(config)
        disk = check_room(config, folder, model)
    except (Exception, KeyboardInterrupt) as error:
        discard(folder)
        if not isinstance(error, ValueError):
            raise
        print(printable(f"error: {error}"), file=sys.stderr)
        return BAD_INPUT
    for line in filter(None, (*fitted, disk)):
        print(f"  {line}", flush=True)
    return config, folder, model


def _look(config: DictConfig, notes: str, step: int = 0) -> int:
    """Print the run as it would be; returns 0."""
    from trm_agent.evaluate.checkpoints.initial import check_whole
    from trm_agent.runs.dry_run import facts_of_run, look
    from trm_agent.runs.preflight import MODEL_PATH

    if not step:
        check_origin(config)
    facts, model = facts_of_run(config)
    check_whole(MODEL_PATH, model)
    if not step:
        check_resumed(config, facts)
    if needs_first_weights(config, step):
        from trm_agent.evaluate.checkpoints.initial import suited_checkpoint

        suited_checkpoint(INIT_FROM, config.run.init_from, facts)
    print("\n".join(look(config, facts, model, step, notes)))
    return 0


def _refuse_or_pin(config: DictConfig) -> str:
    """Set the environment variables, refuse settings that cannot work, and pin what a resumed run must find again.

    Returns:
        A line about the file of problems; "" if there is none.

    Raises:
        ValueError: a setting cannot work, or vLLM is missing.
    """
    from trm_agent.runs import preflight
    from trm_agent.runs.chat import resolve_protocol
    from trm_agent.runs.declared_packages import pin_packages
    from trm_agent.runs.row_files import pin_rows

    require_engine("train")
    os.environ.update({name: str(value) for name, value in config.hardware.env_vars.items()})
    preflight.check_machine(config)
    if config.hardware.kind == "cpu":
        os.environ.update(for_logical_devices(os.environ, devices_here(config)))
    preflight.check(config)
    check_modes(config)
    resolve_protocol(config, partial(apart, needs=TRANSFORMERS))
    rows = pin_rows(config)
    pin_packages(config)
    return rows


def _open_folder(config: DictConfig, overrides: list[str]) -> RunFolder:
    """Find or make the folder of the run.

    Raises:
        ValueError: it is of another run, or cannot be made.
    """
    try:
        return open_run_folder({**plain(config), FIELD: SCORER_VERSION}, defaults_of(overrides))
    except OSError as error:
        field = "root" if config.run.dir is None else "dir"
        why = f"where the run's folder cannot be made ({error.strerror})"
        refuse(f"run.{field}", config.run[field], "a folder that can be written", "give another", because=why)


def _suited_model(config: DictConfig, folder: RunFolder) -> str:
    """Find or make the model, and refuse a configuration that does not suit it.

    Returns:
        The folder of the model, or its hub id.

    Raises:
        ValueError: the model cannot be loaded, or a setting does not fit it.
    """
    from trm_agent.runs.own_models import made_model

    os.environ["TENSORBOARD_DIR"] = str(folder.path.resolve())
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return apart(fitting_model, config, made_model(config), folder.step, needs=TRANSFORMERS)


def train(config: DictConfig, folder: RunFolder, model: str, started: float) -> int:
    """Train in a run folder until the last step.

    Args:
        config: a configuration that passed `preflight.check` and suits the model.
        folder: the folder of the run, locked.
        model: the folder of the model, or its hub id.
        started: time of the command, seconds since the epoch.
    """
    from trm_agent.runs.endings.closing import close_session, open_session
    from trm_agent.runs.endings.stopping import StopSignals

    begin_session(folder.path, started)
    opened = open_session(folder, model)
    prepare(config, folder, model)
    screen_out = quiet(folder.path)
    stop = StopSignals(folder.path, lambda line: print(line, file=screen_out))
    stop.listen()
    try:
        _run(config, folder, started, screen_out, stop.listen)
        samples, best = config.actor_rollout_ref.rollout.val_kwargs.n, config.run.keep_best
        summary = results.finish(folder.path, config.seed, list(config.env.train.horizons), time.time(), samples, best)
    except BadInput as error:
        fork_server.stop()
        discard(folder)
        print(f"error: {error}", file=screen_out)
        return BAD_INPUT
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return close_session(error, opened, stop, screen_out)
    print(f"\n{table_of(folder.path)}\n", file=screen_out)
    took = duration(summary["wall_s"]) + (f" in {summary['sessions']} sessions" if summary["sessions"] > 1 else "")
    print(f"{summary['steps']} steps in {took}; {folder.path}/summary.json, curves.png", file=screen_out)
    return 0


def prepare(config: DictConfig, folder: RunFolder, model: str) -> None:
    """Fill in the settings that depend on the machine, the run's folder and the model's, and prepare the folder."""
    from omegaconf import open_dict

    with open_dict(config):
        config.run.dir = str(folder.path.resolve())
        config.trainer.default_local_dir = str(folder.path.resolve() / CHECKPOINTS)
        config.actor_rollout_ref.model.path = model
        if folder.step:
            config.trainer.resume_mode = "resume_path"
            config.trainer.resume_from_path = str(checkpoint_folder(folder.path.resolve(), folder.step))
            # the row of that step's validation is in metrics.jsonl already
            config.trainer.val_before_train = False
        elif config.trainer.resume_mode == "resume_path":
            config.trainer.resume_from_path = str(Path(config.trainer.resume_from_path).expanduser().resolve())
        else:
            config.trainer.resume_mode = "disable"
        if config.run.schedule_from:
            config.actor_rollout_ref.actor.optim._target_ = SCHEDULED_OPTIMIZER
            config.actor_rollout_ref.actor.optim.schedule_from = config.run.schedule_from
    remove_stale_weights()
    remove_stale_sockets()
    forget_progress(folder.path)
    if config.hardware.fork_server:
        fork_server.start(folder.path / LOG_FILE)


def _run(config: DictConfig, folder: RunFolder, started: float, out: IO[str], ray_started: Callable[[], None]) -> None:
    if config.hardware.fork_server:
        from trm_agent import light_driver as driver
    else:
        from trm_agent.verl_plugin.driver import launch as driver  # type: ignore[no-redef]

    try:
        drive = driver.prepared(config)
    except ValueError as error:
        raise BadInput(str(error)) from error
    go_on(folder, SCORER_VERSION)
    screen = Screen(folder.path, out, config.trainer.total_training_steps, started)
    screen.start()
    try:
        drive(ray_started)
    finally:
        screen.close()


if __name__ == "__main__":
    sys.exit(main())
