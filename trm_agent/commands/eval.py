"""`trm eval`: play held-out tasks with checkpoints, and compare them with honest intervals."""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trm_agent.commands.eval_arguments import DESCRIPTION, EPILOG, add_arguments, check_counts
from trm_agent.extras import require_engine

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from trm_agent.evaluate.checkpoints.source import Checkpoint
    from trm_agent.evaluate.engines.opening import Engine
    from trm_agent.evaluate.request import Request
    from trm_agent.evaluate.store import Store

ROOT = Path("runs")
INTERRUPTED = 130
FAILED = 1
LOG_FILE, PLOTS = "log.txt", "plots"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "eval",
        help=summary,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate.

    Args:
        arguments: the parsed arguments.

    Returns:
        0, also if episodes failed for reasons of the infrastructure, which are shown; 1 if an engine could play no more
        episodes; 130 if it was interrupted.

    Raises:
        ValueError: the request names something that does not exist or cannot work.
    """
    from trm_agent.evaluate.checks import checked
    from trm_agent.evaluate.prepare import prepared
    from trm_agent.evaluate.request import build_plan
    from trm_agent.evaluate.store import open_store
    from trm_agent.evaluate.suites import list_suites

    if arguments.list_suites:
        print(list_suites())
        return 0
    check_counts(arguments)
    request = _request(arguments)
    plan = build_plan(request)
    if any(checkpoint.kind != "endpoint" for checkpoint in plan.checkpoints):
        require_engine("eval")
    try:
        plan = prepared(checked(plan, request.counts), _say)
    except KeyboardInterrupt:
        _say("\nstopped before anything was played")
        return INTERRUPTED
    except RuntimeError as error:  # the nano model's warm start
        _say(f"error: {error}")
        return FAILED
    store = open_store(plan, arguments.out, ROOT, f"eval-{plan.name}")
    try:
        return _evaluate(store, arguments)
    finally:
        store.close()


def _request(arguments: argparse.Namespace) -> Request:
    from trm_agent.evaluate.chats import template_kwargs_of
    from trm_agent.evaluate.request import Request

    return Request(
        checkpoints=tuple(arguments.checkpoints),
        suite=arguments.suite,
        envs=tuple(arguments.env),
        validation=arguments.validation,
        rows=arguments.rows,
        horizons=tuple(arguments.horizons),
        tasks=arguments.tasks,
        limit=arguments.limit,
        samples=arguments.samples,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
        task_seed=arguments.task_seed,
        tokenizer=arguments.tokenizer,
        roles=tuple(arguments.roles) if arguments.roles else None,
        template_kwargs=template_kwargs_of(arguments.template_kwargs),
        settings=tuple(arguments.set),
    )


def _evaluate(store: Store, arguments: argparse.Namespace) -> int:
    _announce(store)
    num_missing = _num_missing(store)
    if num_missing:
        store.forget_summary()
        try:
            is_whole = asyncio.run(_play(store, arguments))
        except RuntimeError as error:  # an engine that does not start, or plays no more episodes
            _say(f"error: {error}\n{_how_to_go_on(store)}; see {store.path / LOG_FILE}")
            return FAILED
        if not is_whole:
            _say(f"\nstopped. {_how_to_go_on(store)}")
            return INTERRUPTED
    _finish(store, arguments.json)
    if any(environment.num_tasks == arguments.limit for environment in store.plan.environments):
        _say(
            f"warning: --limit {arguments.limit}: only so many tasks of an environment were tried; a larger --limit, "
            "or none, goes on in the same folder"
        )
    return 0


async def _play(store: Store, arguments: argparse.Namespace) -> bool:
    """Play the missing episodes; return False if a signal ended it."""
    from trm_agent.evaluate.engines.opening import open_engine
    from trm_agent.evaluate.runner import play_missing

    open_any = functools.partial(
        open_engine,
        sampling=store.plan.sampling,
        max_model_len=max(environment.max_model_len for environment in store.plan.environments),
        log_file=store.path / LOG_FILE,
        # beyond the episode's own clock, which gives a late turn a second try
        request_timeout_s=2 * max(environment.longest_turn_s for environment in store.plan.environments),
        tensor_parallel_size=arguments.tensor_parallel,
    )

    def start(checkpoint: Checkpoint) -> AbstractAsyncContextManager[Engine]:
        # an engine makes room for as many as it may have to play at once
        places = min(arguments.concurrency, len(store.missing(checkpoint.label)))
        return open_any(checkpoint, max_num_seqs=places, chat=store.plan.chat(checkpoint.label).settings)

    playing = asyncio.ensure_future(
        play_missing(store, start, concurrency=arguments.concurrency, num_saved=arguments.save_episodes, say=_say)
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, playing.cancel)
    try:
        await playing
    except asyncio.CancelledError:
        return False
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return True


def _finish(store: Store, as_json: bool) -> None:
    from trm_agent.evaluate.plots import draw_plots
    from trm_agent.evaluate.results import is_failure
    from trm_agent.evaluate.summary import summarise, table
    from trm_agent.runs.scorer_version import FIELD
    from trm_envs.scoring import SCORER_VERSION

    rows, plan = store.asked(), store.plan
    labels = [checkpoint.label for checkpoint in plan.checkpoints]
    figures = summarise(rows, plan.samples, labels, [environment.name for environment in plan.environments])
    summary = {FIELD: SCORER_VERSION, **figures}
    draw_plots(summary, store.path / PLOTS)
    written = store.write_summary(summary)
    if as_json:
        print(json.dumps(written, indent=2, allow_nan=False))
    else:
        print(f"\n{table(summary)}\n")
    _say(f"{store.path}: results.jsonl, summary.json, plots; trm report {store.path} shows the episodes")
    failed = [row for row in rows if is_failure(row)]
    if failed:
        reasons = sorted({row["stop_reason"] for row in failed})
        _say(
            f"warning: {len(failed)} of {len(rows)} episodes ({100 * len(failed) / len(rows):.1f} %) could not be "
            f"played in two tries ({', '.join(reasons)}), e.g. {failed[0]['error']}; they are in no figure; the same "
            "command plays them again"
        )
    broken = [row for row in rows if row.get("scorer_error")]
    if broken:
        from trm_agent.runs.raised import told_of_errors

        told = told_of_errors([str(row["scorer_error"]) for row in broken])
        _say(f"warning: on {len(broken)} of {len(rows)} episodes the environment raised, which scores 0; {told}")


def _announce(store: Store) -> None:
    from trm_agent.evaluate.rows import is_held_out

    plan, number = store.plan, len(store.plan.episodes())
    total = number * len(plan.checkpoints)
    known = [each.name for each in plan.environments if not is_held_out(each)]
    what = f"suite {plan.suite['name']} {plan.suite['hash']}" if plan.suite else "held-out tasks"
    what += f" (not held out: {', '.join(known)}, of one task)" if known else ""
    _say(f"{what}; {number} episodes for each of: {', '.join(each.label for each in plan.checkpoints)}")
    for checkpoint in plan.checkpoints:
        if note := plan.chat(checkpoint.label).note:
            _say(f"  {checkpoint.label}: {note}")
    for environment in plan.environments:
        _say(
            f"  {environment.name}: {environment.num_tasks} tasks x {plan.samples} samples, "
            f"horizons {' '.join(map(str, environment.horizons))}"
            + (f"; the file: {environment.rows_told}" if environment.rows_told else "")
        )
    state = "new" if store.is_new else f"going on: {total - _num_missing(store)} of {total} episodes are there"
    _say(f"  {store.path} ({state})")
    if store.num_cut:
        _say(f"  an unfinished line of {store.num_cut} bytes was moved to results.jsonl.truncated; it is played again")


def _how_to_go_on(store: Store) -> str:
    total = len(store.plan.episodes()) * len(store.plan.checkpoints)
    return f"{total - _num_missing(store)} of {total} episodes are in {store.path}; the same command goes on"


def _num_missing(store: Store) -> int:
    return sum(len(store.missing(checkpoint.label)) for checkpoint in store.plan.checkpoints)


def _say(line: str) -> None:
    # only results go to the standard output
    print(line, file=sys.stderr, flush=True)
