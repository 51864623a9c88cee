"""The context of an episode at its rollout server: each turn sends what is new alone, and the server keeps the rest.

A turn that sent the whole context would send, in an episode of n turns, n / 2 times its tokens, and verl's server looks
at each token of a prompt. The server may forget a context at any time: it says so, and gets the whole again.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

# sampling parameter of the rollout server: the episode, and the tokens of its context that were sent before
CONTEXT = "trm_context"
# stop reason of an answer without tokens: the server does not have those
UNKNOWN_CONTEXT = "trm_unknown_context"
IDLE_S = 1800.0


class SentContext:
    """What of an episode's growing context its server was sent.

    Args:
        episode: a name that no other episode has.
    """

    def __init__(self, episode: str) -> None:
        self._episode, self._num_sent = episode, 0

    def send(self, context: list[int]) -> tuple[list[int], dict[str, Any]]:
        """Return the tokens to send for the next turn, and the sampling parameter that says where they belong.

        Args:
            context: the last one with tokens behind it, or the same.
        """
        start, self._num_sent = self._num_sent, len(context)
        return context[start:], {CONTEXT: (self._episode, start)}

    def forget(self) -> None:
        """Send the whole next time."""
        self._num_sent = 0


class KeptContexts:
    """The contexts that a server keeps. It is not told when an episode ends, so that what is idle for long goes.

    Args:
        most: contexts; beyond, the one that was used least recently goes.
        idle_s: seconds without a turn after which a context goes.
        now: seconds of a clock that only goes forward.
    """

    def __init__(self, most: int, idle_s: float = IDLE_S, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._idle_s, self._now = most, idle_s, now
        # the least recently used first
        self._kept: OrderedDict[str, tuple[list[int], float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def grown(self, episode: str, start: int, new: list[int]) -> list[int] | None:
        """Return an episode's context with new tokens behind its first ones; None if these are not here.

        Args:
            episode: its name.
            start: number of the first tokens; what else stands behind them, as after a turn that is tried again, goes.
            new: the tokens behind them.

        Returns:
            The list that is kept, which later calls change.
        """
        now = self._now()
        known, _ = self._kept.pop(episode, (None, now))
        context = known if start else []
        if context is None or len(context) < start:
            return None
        self._let_go(now)
        del context[start:]
        context += new
        self._kept[episode] = context, now
        return context

    def _let_go(self, now: float) -> None:
        """Make room for one, and forget what is idle."""
        while self._kept:
            _, used = next(iter(self._kept.values()))
            if len(self._kept) < self._most and now - used <= self._idle_s:
                return
            self._kept.popitem(last=False)
