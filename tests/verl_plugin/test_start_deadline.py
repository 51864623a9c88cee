"""A start that does not come to its end ends the run, and names what was at work."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf

from trm_agent.runs.endings.closing import CAUSE_FILE
from trm_agent.verl_plugin.driver import hung, trainer

LIMIT_S = 0.2


def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setup: Callable[[Any], None], limit: float | None) -> Any:
    """A trainer whose `_setup` is the given function; `ended` is set in the place of the process's end."""
    ended = threading.Event()

    class Base:
        def _setup(self) -> None:
            setup(self)

        def _load_checkpoint(self) -> None:
            self.wait()

    monkeypatch.setattr(hung.os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(trainer, "get_trainer_cls", lambda _: Base)
    monkeypatch.setattr(trainer.actor_update, "install", lambda: None)
    run = object.__new__(trainer.trainer_class("sync"))
    run.config = OmegaConf.create(
        {
            "run": {"dir": str(tmp_path), "start_timeout_s": limit, "phase_timeout_s": None},
            "trainer": {"resume_mode": "disable"},
        }
    )
    run.ended, run.global_steps = ended, 0
    # longer than the limit, unless the end comes before
    run.wait = lambda: ended.wait(3 * LIMIT_S)
    run._setup()
    return run


def make_ranks(run: Any) -> None:
    run.reward_loop_manager = object()


@pytest.mark.parametrize(
    ("before", "at_work"),
    [
        ((), hung.RANKS),
        ((make_ranks,), hung.ENGINES),
        # those that have devices of their own, after the checkpoint
        ((make_ranks, lambda run: run._load_checkpoint()), hung.ENGINES),
    ],
)
def test_a_start_that_hangs_names_what_is_at_work(tmp_path, monkeypatch, before, at_work):
    def setup(run: Any) -> None:
        for step in before:
            step(run)
        assert not run.ended.is_set()
        assert run.ended.wait(20)

    started(tmp_path, monkeypatch, setup, LIMIT_S)
    assert f"{at_work} took longer than 0 s (run.start_timeout_s); giving up" in (tmp_path / CAUSE_FILE).read_text()


@pytest.mark.parametrize("limit", [LIMIT_S, None])
def test_a_checkpoint_has_not_the_limit_of_a_start_and_neither_has_a_run_without_one(tmp_path, monkeypatch, limit):
    def setup(run: Any) -> None:
        make_ranks(run)
        run._load_checkpoint()
        if limit is None:
            run.wait()

    run = started(tmp_path, monkeypatch, setup, limit)
    # nor does a limit outlast the start
    run.wait()
    assert not run.ended.is_set()


def test_each_part_of_a_start_has_the_whole_time(tmp_path, monkeypatch):
    def setup(run: Any) -> None:
        assert not run.ended.wait(0.7 * LIMIT_S)
        make_ranks(run)
        assert not run.ended.wait(0.7 * LIMIT_S)

    started(tmp_path, monkeypatch, setup, LIMIT_S)
