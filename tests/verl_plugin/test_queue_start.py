"""The data queue starts beside the trainer: what goes wrong with either is told, and both end."""

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

import transfer_queue as tq
from omegaconf import OmegaConf

from trm_agent.verl_plugin.driver import runner, trainer


class Both:
    """A fake start of a queue and of a trainer, each of which does what a test says."""

    def __init__(self, monkeypatch, tmp_path):
        self.log, self.trainer_ended = [], threading.Event()
        self.config = SimpleNamespace(
            run=SimpleNamespace(dir=str(tmp_path)),
            transfer_queue=SimpleNamespace(enable=False),
            hardware=SimpleNamespace(agent_loops="workers"),
            trainer=SimpleNamespace(v1=SimpleNamespace(trainer_mode="sync")),
        )
        self.queue = self.trainer = lambda: None
        monkeypatch.setattr(OmegaConf, "resolve", lambda _: None)
        monkeypatch.setattr(runner, "let_turns_repeat", lambda _: None)
        monkeypatch.setattr(runner, "_agent_loops", lambda *_: pytest.fail("both are ready"))
        monkeypatch.setattr(trainer, "trainer_class", lambda _: self.built)
        monkeypatch.setattr(tq, "init", lambda _: self.start_queue())
        monkeypatch.setattr(tq, "close", lambda: self.log.append("closed"))

    def start_queue(self):
        self.queue()
        self.log.append("queue")

    def built(self, config):
        made = SimpleNamespace(init=lambda: self.init(made))
        return made

    def init(self, made):
        try:
            self.trainer()
        finally:
            self.trainer_ended.set()
        made.await_queue()
        self.log.append("trainer")


@pytest.fixture
def both(monkeypatch, tmp_path):
    return Both(monkeypatch, tmp_path)


def test_the_trainer_starts_beside_the_queue_and_waits_for_it(both):
    both.queue = lambda: both.trainer_ended.wait(10) or pytest.fail("one after the other")
    with pytest.raises(BaseException, match="both are ready"):
        runner.train(both.config)
    assert both.log == ["queue", "trainer", "closed"]


def test_a_queue_that_fails_ends_the_run_with_its_reason(both):
    def fail():
        raise RuntimeError("no port is free")

    both.queue = fail
    with pytest.raises(RuntimeError, match="no port is free"):
        runner.train(both.config)
    assert both.log == ["closed"]


def test_a_trainer_that_fails_ends_the_run_with_its_reason_when_the_queue_is_there(both):
    def fail():
        raise RuntimeError("no such model")

    both.queue, both.trainer = lambda: both.trainer_ended.wait(10) or pytest.fail("waits"), fail
    with pytest.raises(RuntimeError, match="no such model"):
        runner.train(both.config)
    assert both.log == ["queue", "closed"]
