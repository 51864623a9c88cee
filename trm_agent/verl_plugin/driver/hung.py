"""Deadlines of what waits for other processes, which verl would wait for for ever."""

import os
import re
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ray.exceptions import ActorDiedError

from trm_agent.runs.endings.closing import record_cause
from trm_agent.verl_plugin.driver.ranks import Ranks, listening_ranks, ranks_of

RANKS, ENGINES = "the start of the trainer's ranks", "the start of the rollout engines"
STACKS_FILE = "stacks.txt"
LAST_S = 120.0
"""Seconds after which the process ends even if Ray does not answer any more."""
TORCH_FIELD = "actor_rollout_ref.nccl_timeout"
# of gloo and of NCCL, each for one collective
_TORCH_GAVE_UP = re.compile(
    r"Timed out waiting \d+ms for|Watchdog caught collective operation timeout|wait timeout after"
)


@contextmanager
def deadline(seconds: float | None, what: str, run_dir: Path, field: str, ranks: Ranks | None = None) -> Iterator[None]:
    """End this process if the block takes longer, after a word on where each rank is.

    The same word is given where torch gives up on a collective first, or where one of several ranks ends.

    verl's sender of weights waits for ever if the receiver has failed (bucketed_weight_transfer.py receives without a
    timeout), and so do processes that start together and of which one does not come; the driver sees the end of this
    process at once.

    Args:
        seconds: the limit; None for none.
        what: the name of what is at work.
        run_dir: the run's folder, where the cause is recorded.
        field: the setting that holds the limit.
        ranks: those that are at work in the block.
    """
    timer = None
    if seconds is not None:
        timer = _timer(seconds, give_up, run_dir, f"{what} took longer than {seconds:.0f} s ({field})", ranks)
    try:
        yield
    except Exception as error:
        if ranks is not None and len(ranks) > 1:
            if _TORCH_GAVE_UP.search(str(error)):
                record_cause(run_dir, f"{what}: a collective took longer than {TORCH_FIELD}{_told(run_dir, ranks)}")
            elif isinstance(error, ActorDiedError):
                _told(run_dir, ranks)
        raise
    finally:
        if timer is not None:
            timer.cancel()


def give_up(run_dir: Path, cause: str, ranks: Ranks | None = None) -> None:
    """End this process, after a word on where each rank is.

    Args:
        run_dir: the run's folder, where cause and stacks are recorded.
        cause: what took too long.
        ranks: those at work in it.
    """
    if ranks is not None:
        record_cause(run_dir, f"{cause}; giving up")
        _timer(LAST_S, os._exit, 1)
        cause += _told(run_dir, ranks)
    print(f"{cause}; giving up", flush=True)
    record_cause(run_dir, f"{cause}; giving up")
    os._exit(1)


def _told(run_dir: Path, ranks: Ranks) -> str:
    """Write where each rank is, into the run's folder and the log, and return which of them have answered."""
    try:
        found = ranks.where()
        print(found.stacks, flush=True)
        (run_dir / STACKS_FILE).write_text(found.stacks, encoding="utf-8")
    except Exception as error:
        # whatever it is, the run ends for its first cause
        traceback.print_exc()
        return f"; the ranks could not be asked: {type(error).__name__}"
    answered, silent = (", ".join(map(str, each)) or "none" for each in (found.answered, found.silent))
    return f"; ranks that answered: {answered}, that did not: {silent}; their stacks: {STACKS_FILE}"


def _timer(seconds: float, call: Any, *arguments: Any) -> threading.Timer:
    timer = threading.Timer(seconds, call, arguments)
    timer.daemon = True
    timer.start()
    return timer


class StartMixin:
    """A mixin that limits the start of the trainer's ranks, and that of the rollout engines, each by itself.

    Loading a checkpoint falls under neither: a large one takes as long as its disk does, and is a phase of its own.
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
    ranks: Ranks | None
    standalone_server_manager: Any = None
    # the trainer's ranks and those of servers with devices of their own, which have started by the first one
    _ends: Ranks | None = None

    def on_init_end(self) -> None:
        if self.ranks is not None and self.standalone_server_manager is not None:
            workers = ranks_of(self.standalone_server_manager.get_replicas())
            servers = listening_ranks(workers, "server {}")
            self._ends = self.ranks + servers if servers is not None else None
        with self._synchronising("the first weight synchronisation"):
            super().on_init_end()  # type: ignore[misc]

    def on_sample_end(self) -> None:
        # verl cuts their turns, takes their memory, and waits for their word on both
        with self._synchronising("the engines' rest before an update"):
            super().on_sample_end()  # type: ignore[misc]

    def on_step_end(self) -> None:
        with self._synchronising("the weight synchronisation"):
            super().on_step_end()  # type: ignore[misc]

    def _synchronising(self, what: str) -> Any:
        run = self.config.run
        ranks = self._ends or self.ranks
        return deadline(run.weight_sync_timeout_s, what, Path(run.dir), "run.weight_sync_timeout_s", ranks)
