"""Deadlines of what waits for other processes, which verl would wait for for ever."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from trm_agent.runs.endings.closing import record_cause

RANKS, ENGINES = "the start of the trainer's ranks", "the start of the rollout engines"


@contextmanager
def deadline(seconds: float | None, what: str, run_dir: Path, field: str) -> Iterator[None]:
    """End this process if the block takes longer.

    verl's sender of weights waits for ever if the receiver has failed (bucketed_weight_transfer.py receives without a
    timeout), and so do processes that start together and of which one does not come; the driver sees the end of this
    process at once.

    Args:
        seconds: the limit; None for none.
        what: the name of what is at work.
        run_dir: the run's folder, where the cause is recorded.
        field: the setting that holds the limit.
    """
    if seconds is None:
        yield
        return

    def give_up() -> None:
        cause = f"{what} took longer than {seconds:.0f} s ({field}); giving up"
        print(cause, flush=True)
        record_cause(run_dir, cause)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class StartMixin:
    """A mixin that limits the start of the trainer's ranks, and that of the rollout engines, each by itself.

    Loading a checkpoint falls under neither: a large one takes as long as its disk does.
    """

    config: Any
    _phase: ExitStack

    def _setup(self) -> None:
        with ExitStack() as self._phase:
            self._begin(RANKS)
            super()._setup()  # type: ignore[misc]

    @property
    def reward_loop_manager(self) -> Any:
        return self._reward_loop_manager

    @reward_loop_manager.setter
    def reward_loop_manager(self, manager: Any) -> None:
        # verl makes it between ranks and engines
        self._reward_loop_manager = manager
        self._begin(ENGINES)

    def _load_checkpoint(self) -> None:
        self._phase.close()
        super()._load_checkpoint()  # type: ignore[misc]
        # engines beside those that share the trainer's devices start last
        self._begin(ENGINES)

    def _begin(self, what: str) -> None:
        run = self.config.run
        self._phase.close()
        self._phase.enter_context(deadline(run.start_timeout_s, what, Path(run.dir), "run.start_timeout_s"))


class SynchronisationMixin:
    """A mixin behind `SavingMixin`, so that no checkpoint falls under the deadline of a synchronisation."""

    config: Any

    def on_init_end(self) -> None:
        with self._synchronising("the first weight synchronisation"):
            super().on_init_end()  # type: ignore[misc]

    def on_step_end(self) -> None:
        with self._synchronising("the weight synchronisation"):
            super().on_step_end()  # type: ignore[misc]

    def _synchronising(self, what: str) -> Any:
        run = self.config.run
        return deadline(run.weight_sync_timeout_s, what, Path(run.dir), "run.weight_sync_timeout_s")
