"""A start that does not come to its end ends the run, and names what was at work."""

import threading
from pathlib import Path

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf

from trm_agent.runs.endings.closing import CAUSE_FILE
from trm_agent.verl_plugin.driver import trainer


class Ended(BaseException):
    """In the place of the process's end."""


@pytest.mark.parametrize(
    ("made", "at_work"),
    [
        ((), "the start of the trainer's ranks"),
        (("reward_loop_manager",), "the start of the rollout engines"),
        (("reward_loop_manager", "checkpoint_manager"), "loading the checkpoint"),
    ],
)
def test_a_start_that_hangs_names_what_is_at_work(tmp_path: Path, monkeypatch, made, at_work):
    given_up = threading.Event()

    class Base:
        def _setup(self) -> None:
            for name in made:
                setattr(self, name, object())
            assert given_up.wait(20)

    monkeypatch.setattr(trainer.os, "_exit", lambda code: given_up.set())
    monkeypatch.setattr(trainer, "get_trainer_cls", lambda _: Base)
    monkeypatch.setattr(trainer.actor_update, "install", lambda: None)
    run = object.__new__(trainer.trainer_class("sync"))
    run.config = OmegaConf.create({"run": {"dir": str(tmp_path), "start_timeout_s": 0.05}})
    run._setup()
    assert f"{at_work} took longer than 0 s (run.start_timeout_s); giving up" in (tmp_path / CAUSE_FILE).read_text()
