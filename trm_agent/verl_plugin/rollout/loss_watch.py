"""A watch over the processes that play episodes: for those of one that ends a trainer would wait for ever."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

FIELD = "run.weight_sync_timeout_s"
# between two questions to a process that was not reached
AGAIN_S = 1.0


class LossWatch:
    """Tell of the first process that ends before `close`, and its episodes with it.

    One that fails as it is made has no episodes: its error is raised where it is given the first of them. One that Ray
    cannot reach may be alive, and is asked until it answers, has ended, or stayed away for too long.

    Args:
        on_loss: called with a sentence, in a thread of the watch.
        patience_s: the longest time without reaching a process, seconds: `run.weight_sync_timeout_s`.
    """

    def __init__(self, on_loss: Callable[[str], None], patience_s: float) -> None:
        self._on_loss, self._patience_s, self._is_closed = on_loss, patience_s, False
        self.thread: threading.Thread | None = None

    def begin(self, processes: Mapping[str, Any]) -> None:
        """Begin to watch.

        Args:
            processes: a process in words -> its handle, with a method `serve` that only its end answers.
        """
        calls = {handle.serve.remote(): name for name, handle in processes.items()}
        self.thread = threading.Thread(target=self._watch, args=(dict(processes), calls), daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Expect the processes to end from now on."""
        self._is_closed = True

    def _watch(self, processes: dict[str, Any], calls: dict[Any, str]) -> None:
        """Wait for the calls, one to each process: to `serve`, or the question whether it is there."""
        # process in words -> time at which it was to be reached at the latest
        due: dict[str, float] = {}
        while calls:
            left_s = min(due.values()) - time.monotonic() if due else None
            ended, _ = ray.wait(list(calls), num_returns=1, timeout=None if left_s is None else max(left_s, 0.0))
            if not ended:
                self._tell(self._away(min(due, key=lambda each: due[each])))
                return
            name = calls.pop(ended[0])
            try:
                ray.get(ended)
            except ActorUnavailableError as error:
                if time.monotonic() >= due.setdefault(name, time.monotonic() + self._patience_s):
                    self._tell(f"{self._away(name)}: {_line(error)}")
                    return
                if self._is_closed:
                    return
                time.sleep(AGAIN_S)
                # a method of Ray's own
                calls[processes[name].__ray_ready__.remote()] = name
            except RayError as error:
                if getattr(error, "actor_init_failed", False):
                    due.pop(name, None)
                    continue
                self._tell(f"the {name} has ended, and its episodes with it: {_line(error)}")
                return
            else:
                due.pop(name, None)
                calls[processes[name].serve.remote()] = name

    def _away(self, name: str) -> str:
        return f"the {name} and its episodes could not be reached for {self._patience_s:.0f} s ({FIELD})"

    def _tell(self, words: str) -> None:
        if not self._is_closed:
            self._on_loss(words)


def _line(error: RayError) -> str:
    return " ".join(str(error).split())
