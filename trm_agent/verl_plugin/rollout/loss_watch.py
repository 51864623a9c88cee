"""A watch over the processes that play episodes: for those of one that ends a trainer would wait for ever."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError


class LossWatch:
    """Tell of the first process that ends before `close`, and its episodes with it.

    One that fails as it is made has no episodes: its error is raised where it is given the first of them.

    Args:
        on_loss: called with a sentence, in a thread of the watch.
    """

    def __init__(self, on_loss: Callable[[str], None]) -> None:
        self._on_loss, self._is_closed = on_loss, False
        self.thread: threading.Thread | None = None

    def begin(self, calls: Mapping[Any, str]) -> None:
        """Begin to watch.

        Args:
            calls: a call to each process that only its end answers -> the process in words.
        """
        self.thread = threading.Thread(target=self._watch, args=(dict(calls),), daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Expect the processes to end from now on."""
        self._is_closed = True

    def _watch(self, calls: dict[Any, str]) -> None:
        while calls:
            ended, _ = ray.wait(list(calls), num_returns=1)
            name = calls.pop(ended[0])
            try:
                ray.get(ended)
            except RayError as error:
                if getattr(error, "actor_init_failed", False):
                    continue
                if not self._is_closed:
                    reason = " ".join(str(error).split())
                    self._on_loss(f"the {name} has ended, and its episodes with it: {reason}")
                return
