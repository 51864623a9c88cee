"""Each phase in which the trainer's ranks work together has the deadline of phases, by the name of the phase."""

import inspect
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync

from trm_agent.runs.endings.closing import CAUSE_FILE
from trm_agent.runs.endings.explain import explain
from trm_agent.runs.endings.keeping import Keeping
from trm_agent.verl_plugin.driver import hung, trainer
from trm_agent.verl_plugin.driver.phases import PhasesMixin

from .test_hung_ranks import FACTS

LIMIT_S = 0.1
BATCH = {"batch": "batch", "metrics": {}}
PHASES = {
    "_compute_old_log_prob": (BATCH, "the forward pass before the update"),
    "_compute_ref_log_prob": (BATCH, "the forward pass of the reference"),
    "_compute_values": (BATCH, "the forward pass of the critic"),
    "_update_critic": (BATCH, "the update of the critic"),
    "_update_actor": (BATCH, "the update of the policy"),
    "_save_checkpoint": ({}, "saving the checkpoint"),
    "_load_checkpoint": ({}, "loading the checkpoint"),
}


def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float | None) -> Any:
    """A trainer in each of whose phases verl waits; `ended` is set in the place of the process's end."""
    ended = threading.Event()

    def wait(self: Any, *batch: Any, **metrics: Any) -> Any:
        self.waited = [*batch, *metrics.values()]
        ended.wait(20 if limit else 3 * LIMIT_S)
        return "result"

    base = type("Base", (), dict.fromkeys(PHASES, wait))
    monkeypatch.setattr(hung.os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(trainer, "get_trainer_cls", lambda _: base)
    monkeypatch.setattr(trainer.actor_update, "install", lambda: None)
    run = object.__new__(trainer.trainer_class("sync"))
    values = {"dir": str(tmp_path), "start_timeout_s": None, "phase_timeout_s": limit}
    run.config = OmegaConf.create({"run": values, "trainer": {"resume_mode": "disable"}})
    run.ended, run.global_steps, run._kept = ended, 1, Keeping(2)
    return run


@pytest.mark.parametrize("name", PHASES)
def test_a_phase_that_hangs_ends_the_run_by_its_name(name, tmp_path, monkeypatch):
    given, what = PHASES[name]
    run = made(tmp_path, monkeypatch, LIMIT_S)
    # past what our other mixins do around a checkpoint
    getattr(PhasesMixin, name)(run, **given)
    assert run.ended.is_set()
    assert run.waited == list(given.values())
    cause = (tmp_path / CAUSE_FILE).read_text()
    assert cause == f"{what} took longer than 0 s (run.phase_timeout_s); giving up\n"
    assert explain(cause, "", FACTS).name == "phase: hung"


def test_without_a_limit_none_ends_it_and_verls_result_is_handed_on(tmp_path, monkeypatch):
    run = made(tmp_path, monkeypatch, None)
    assert run._update_actor(**BATCH) == "result"
    assert not run.ended.is_set()


def test_a_rank_that_is_alone_may_take_as_long_as_it_wants(tmp_path, monkeypatch):
    run = made(tmp_path, monkeypatch, LIMIT_S)
    monkeypatch.setattr(run.ended, "wait", lambda _: time.sleep(3 * LIMIT_S))
    run.ranks = ["alone"]
    assert run._update_actor(**BATCH) == "result"
    assert not run.ended.is_set()
    # with another beside it the limit holds
    monkeypatch.setattr(hung, "_told", lambda *_: "")
    run.ranks = ["one", "other"]
    run._update_actor(**BATCH)
    assert run.ended.is_set()


def test_no_phase_of_verls_is_left_out():
    # what else asks ranks: their start, their profiles, and what they are, which is known without a collective
    others = {"_setup", "_start_profiling", "_stop_profiling", "_balance_batch", "_get_required_batch_multiple"}
    for verls in (PPOTrainer, PPOTrainerSeparateAsync):
        methods = inspect.getmembers(verls, inspect.isfunction)
        asking = {name for name, method in methods if re.search(r"self\.\w+_wg\b", inspect.getsource(method))}
        assert "_update_actor" in asking
        assert asking - others <= set(PHASES), asking - others - set(PHASES)
    assert set(PHASES) <= set(vars(PhasesMixin))
