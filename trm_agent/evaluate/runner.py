"""Play the missing episodes of an evaluation: one engine after the other, many episodes at once."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from trm_agent.episode import Episode, chat_tokens, run_episode, tune_garbage_collection
from trm_agent.evaluate.progress import Progress
from trm_agent.evaluate.results import is_failure, result_row
from trm_agent.evaluate.store import Store
from trm_agent.runs.declared_packages import PACKAGES
from trm_agent.tasks import make_env

if TYPE_CHECKING:
    from trm_agent.evaluate.checkpoints.source import Checkpoint
    from trm_agent.evaluate.engines.opening import Engine
    from trm_agent.evaluate.plan import Key

# failures in a row, with no episode played in between, after which an engine counts as broken
MAX_FAILURES = 20

OpenEngine = Callable[["Checkpoint"], AbstractAsyncContextManager["Engine"]]


class NothingPlayed(RuntimeError):
    """No more episodes can be played; the message holds the last fault."""


async def play_missing(
    store: Store,
    open_engine: OpenEngine,
    *,
    concurrency: int,
    num_saved: int = 0,
    say: Callable[[str], Any] = print,
) -> None:
    """Play every episode that the store lacks, checkpoint by checkpoint; each result is written as it comes.

    An episode that fails for reasons of the infrastructure is played once more when the others are done; one that fails
    again is left to the next call. An engine is started only for a checkpoint that lacks episodes, and ended before the
    next begins.

    Args:
        store: an open evaluation.
        open_engine: starts the engine of a checkpoint.
        concurrency: episodes in flight, at most the engine's number of places; fewer where it cannot keep so many.
        num_saved: the number of episodes of each checkpoint that keep their tokens.
        say: takes a line for the user.

    Raises:
        NothingPlayed: too many episodes failed in a row.
        asyncio.CancelledError: the caller cancelled; finished episodes are in the store.
    """
    for checkpoint in store.plan.checkpoints:
        missing = store.missing(checkpoint.label)
        if not missing:
            continue
        say(f"{checkpoint.label}: starting the engine for {len(missing)} episodes")
        async with open_engine(checkpoint) as engine:
            tune_garbage_collection()
            most = min(concurrency, engine.at_once or concurrency)
            if most < min(concurrency, len(missing)):
                say(f"{checkpoint.label}: {most} episodes in play at once, not {concurrency}: what the cache holds")
            await _Session(store, checkpoint.label, engine, missing, num_saved).play(most)
            if failed := store.missing(checkpoint.label):
                say(f"{checkpoint.label}: {len(failed)} episodes failed for reasons of the infrastructure: once more")
                await _Session(store, checkpoint.label, engine, failed, num_saved).play(most)


class _Session:
    """The episodes of one checkpoint."""

    def __init__(self, store: Store, label: str, engine: Engine, missing: list[Key], num_saved: int) -> None:
        self.store, self.label, self.engine = store, label, engine
        self.talk = store.plan.chat(label)
        self.chat = chat_tokens(engine.tokenizer, self.talk.settings)
        self.waiting = deque(missing)
        self.saved = store.plan.first_episodes(num_saved)
        self.num_failed_in_a_row = 0
        lacking, every = set(missing), store.plan.episodes()
        done = [store.rows[(label, key)] for key in every if key not in lacking]
        self.progress = Progress(label, done, len(every))

    async def play(self, concurrency: int) -> None:
        workers = [asyncio.create_task(self._work()) for _ in range(min(concurrency, len(self.waiting)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            self.progress.close()

    async def _work(self) -> None:
        while self.waiting:
            key = self.waiting.popleft()
            self._keep(key, await self._play(key))

    async def _play(self, key: Key) -> Episode:
        plan = self.store.plan
        environment = plan.environment(key.env)
        task = environment.task(key.task)
        return await run_episode(
            functools.partial(make_env, environment.id, environment.module, self.talk.kwargs(environment.kwargs)),
            self.engine.generator(plan.sampling_seed(key)),
            self.chat,
            environment.limits_at(environment.horizon(key.task)),
            env_id=task.env_id,
            seed=task.seed,
            options=task.options,
        )

    def _keep(self, key: Key, episode: Episode) -> None:
        environment = self.store.plan.environment(key.env)
        # rows of a file have no horizon to compare
        horizon = environment.horizon(key.task) if environment.rows_hash is None else None
        row = result_row(self.label, key.env, horizon, key.task, key.sample, episode)
        row |= {name: value for name, value in environment.kwargs.items() if name == PACKAGES and value}
        # the tokens come first, since an episode with a result is never played again
        if key in self.saved:
            self.store.save_episode(self.label, key, episode)
        self.store.append(row)
        self.progress.add(row)
        self.num_failed_in_a_row = self.num_failed_in_a_row + 1 if is_failure(row) else 0
        if self.num_failed_in_a_row >= MAX_FAILURES:
            raise NothingPlayed(
                f"{self.label}: the last {MAX_FAILURES} episodes failed without a single one played, the last as "
                f"{row['stop_reason']}: {row['error']}"
            )
