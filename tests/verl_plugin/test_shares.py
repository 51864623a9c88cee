"""Who waited in a step: a trainer with scripted servers, queue and clocks."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl")

from ray.exceptions import GetTimeoutError

from trm_agent.report.times import PHASES
from trm_agent.verl_plugin.driver import shares
from trm_agent.verl_plugin.driver.queue_clock import QueueClock
from trm_agent.verl_plugin.driver.shares import SharesMixin, server_metrics, trainer_idle
from trm_agent.verl_plugin.rollout.busy import Reading


class Server:
    """A server whose accounts are given."""

    def __init__(self, *readings: Reading | None) -> None:
        left = iter(readings)
        self.busy = SimpleNamespace(remote=lambda: next(left))


class Base:
    def on_step_begin(self) -> None:
        pass

    def on_step_end(self) -> None:
        pass


class Trainer(SharesMixin, Base):
    """A step from 100 s to 110 s; its only task is done at 105 s and taken at 106 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *servers: Any) -> None:
        self.llm_server_manager = SimpleNamespace(server_handles=list(servers))
        clock = QueueClock()
        self.replay_buffer = SimpleNamespace(queue_clock=clock, queue_idle=lambda: clock.share(()))
        monkeypatch.setattr(shares.time, "time", lambda: self.now)
        monkeypatch.setattr(shares.ray, "get", self.answers)
        self.is_silent = False

    def answers(self, given: list, timeout: float) -> list:
        assert timeout > 0
        if self.is_silent and given:
            raise GetTimeoutError
        return given

    def step(self) -> dict[str, float]:
        self.now = 100.0
        self.on_step_begin()
        self.replay_buffer.queue_clock.take(106.0, [105.0], 0)
        self.now = 110.0
        self.on_step_end()
        return self._idle_metrics({"start": 0.5, "gen": 5.5, "update_actor": 3.0, "step": 10.0})


def test_a_step_tells_how_long_each_waited(monkeypatch):
    # busy for 4 of 10 s with one turn, and for 6 of 10 s with three
    first = Server(Reading(7.0, 1.0, 1.0), Reading(17.0, 5.0, 5.0))
    second = Server(Reading(70.0, 0.0, 0.0), Reading(80.0, 6.0, 18.0))
    assert Trainer(monkeypatch, first, second).step() == pytest.approx(
        {"run/trainer_idle": 0.6, "run/servers_idle": 0.5, "run/turns_at_once": 2.2, "run/queue_idle": 0.9}
    )


def test_servers_that_do_not_tell_leave_their_numbers_out(monkeypatch):
    told = {"run/trainer_idle": 0.6, "run/queue_idle": pytest.approx(0.9)}
    assert Trainer(monkeypatch, SimpleNamespace()).step() == told
    silent = Trainer(monkeypatch, Server(Reading(0.0, 0.0, 0.0), Reading(1.0, 1.0, 1.0)))
    silent.is_silent = True
    assert silent.step() == told


def test_a_server_without_a_turn_is_idle_and_one_that_never_rests_is_not():
    rest = [Reading(0.0, 0.0, 0.0)], [Reading(5.0, 0.0, 0.0)]
    assert server_metrics(*rest) == {"run/servers_idle": 1.0}
    # rounding makes no share below 0
    busy = [Reading(0.1, 0.1, 0.1)], [Reading(0.3, 0.3000000001, 0.4)]
    assert server_metrics(*busy)["run/servers_idle"] == 0.0


def test_what_the_trainer_does_not_wait_for_is_the_rest_of_the_step():
    timing = {name: number / 8 for number, names in enumerate(PHASES.values()) for name in names if name != "testing"}
    timing["step"] = sum(timing.values()) + 0.5
    waits = ("start", "gen")
    work = sum(value for name, value in timing.items() if name not in (*waits, "step")) + 0.5
    assert trainer_idle(timing) + work / timing["step"] == pytest.approx(1)
