"""A trainer's account of who waited in a step: itself, the rollout servers, the queue between them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from trm_agent.verl_plugin.driver.asynchronous import rollout_servers
from trm_agent.verl_plugin.rollout.busy import Reading

ANSWER_S = 10.0
"""Seconds for a server's answer, after which its step has no number."""


class SharesMixin:
    """A mixin for a trainer of verl's V1. It asks the servers at both ends of a step, and waits for no answer there."""

    config: Any
    replay_buffer: Any
    _asked: tuple[list[Any], ...] = ()
    """The servers' answers to come, at the beginning of the step and at its end."""

    def on_step_begin(self) -> None:
        self._asked = (_ask(rollout_servers(self).server_handles),)
        self.replay_buffer.queue_clock.begin(time.time())
        super().on_step_begin()  # type: ignore[misc]

    def on_step_end(self) -> None:
        super().on_step_end()  # type: ignore[misc]
        self.replay_buffer.queue_clock.end(time.time())
        self._asked = (*self._asked, _ask(rollout_servers(self).server_handles))

    def _idle_metrics(self, timing: Mapping[str, float]) -> dict[str, float]:
        """Take the metrics of a step that has ended.

        Args:
            timing: verl's seconds of it, by name.
        """
        metrics = {"run/trainer_idle": trainer_idle(timing)}
        try:
            readings = [ray.get(answers, timeout=ANSWER_S) for answers in self._asked]
        except RayError:
            # a server that is gone ends the run by itself
            readings = []
        if len(readings) == 2:
            metrics |= server_metrics(*readings)
        if (queue := self.replay_buffer.queue_idle()) is not None:
            metrics["run/queue_idle"] = queue
        return metrics


def _ask(servers: Sequence[Any]) -> list[Any]:
    """Ask servers for their accounts; none where some are not of ours."""
    return [server.busy.remote() for server in servers] if all(hasattr(each, "busy") for each in servers) else []


def trainer_idle(timing: Mapping[str, float]) -> float:
    """Return the share of a step in which the trainer hands out tasks and waits for episodes.

    Args:
        timing: verl's seconds of the step, by name, with `step`.
    """
    return (timing.get("start", 0.0) + timing.get("gen", 0.0)) / timing["step"]


def server_metrics(begin: Sequence[Reading], end: Sequence[Reading]) -> dict[str, float]:
    """Return the share of a step in which a server's engine had nothing to sample, and its turns at a time meanwhile.

    Args:
        begin: each server's account at the beginning of the step.
        end: at its end.

    Returns:
        `run/servers_idle`, the mean over the servers, and `run/turns_at_once`, the mean over their busy seconds; empty
        where no server tells, the second absent where none was busy.
    """
    pairs = list(zip(begin, end, strict=True))
    seconds = sum(last.at - first.at for first, last in pairs)
    busy = sum(last.busy_s - first.busy_s for first, last in pairs)
    turns = sum(last.turn_s - first.turn_s for first, last in pairs)
    metrics = {"run/servers_idle": max(0.0, 1 - busy / seconds)} if seconds > 0 else {}
    return metrics | ({"run/turns_at_once": turns / busy} if busy > 0 else {})
