"""Each phase in which the trainer's ranks work together, or it waits for engines, has a deadline by its name."""

import inspect
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from trm_agent.runs.endings.closing import CAUSE_FILE
from trm_agent.runs.endings.explain import explain
from trm_agent.runs.endings.keeping import Keeping
from trm_agent.verl_plugin.driver import hung, trainer
from trm_agent.verl_plugin.driver.hung import SynchronisationMixin
from trm_agent.verl_plugin.driver.phases import PhasesMixin

from .test_hung_ranks import FACTS

TRAINERS = (PPOTrainer, PPOTrainerSync, PPOTrainerColocateAsync, PPOTrainerSeparateAsync)
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


SYNCHRONISATIONS = {
    "on_init_end": "the first weight synchronisation",
    "on_sample_end": "the engines' rest before an update",
    "on_step_end": "the weight synchronisation",
}


def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float | None) -> Any:
    """A trainer in each of whose phases verl waits; `ended` is set in the place of the process's end."""
    ended = threading.Event()

    def wait(self: Any, *batch: Any, **metrics: Any) -> Any:
        self.waited = [*batch, *metrics.values()]
        ended.wait(20 if limit else 3 * LIMIT_S)
        return "result"

    base = type("Base", (), dict.fromkeys((*PHASES, *SYNCHRONISATIONS), wait))
    monkeypatch.setattr(hung.os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(trainer, "get_trainer_cls", lambda _: base)
    monkeypatch.setattr(trainer.actor_update, "install", lambda: None)
    run = object.__new__(trainer.trainer_class("sync"))
    limits = dict.fromkeys(("phase_timeout_s", "weight_sync_timeout_s"), limit)
    values = {"dir": str(tmp_path), "start_timeout_s": None, **limits}
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


@pytest.mark.parametrize("name", SYNCHRONISATIONS)
def test_an_engine_that_hangs_ends_the_run_by_the_name_of_what_it_was_to_do(name, tmp_path, monkeypatch):
    run, what = made(tmp_path, monkeypatch, LIMIT_S), SYNCHRONISATIONS[name]
    getattr(SynchronisationMixin, name)(run)
    assert run.ended.is_set()
    cause = (tmp_path / CAUSE_FILE).read_text()
    assert cause == f"{what} took longer than 0 s (run.weight_sync_timeout_s); giving up\n"
    assert explain(cause, "", FACTS).cause.startswith(f"{what} took longer than 0 s (run.weight_sync_timeout_s): ")


def test_a_synchronisation_asks_the_workers_of_servers_with_devices_of_their_own_too(tmp_path, monkeypatch):
    run, asked = made(tmp_path, monkeypatch, LIMIT_S), []

    monkeypatch.setattr(hung, "_told", lambda _, ranks: asked.append(ranks) or "")
    # in place of ranks, which are added too
    monkeypatch.setattr(hung, "listening_ranks", lambda workers, name: [name.format(worker) for worker in workers])
    run.ranks = alone = ["0", "1"]
    SynchronisationMixin.on_step_end(run)
    replicas = [SimpleNamespace(workers=workers) for workers in (["a", "b"], ["c"])]
    run.standalone_server_manager = SimpleNamespace(get_replicas=lambda: replicas)
    for name in ("on_init_end", "on_step_end"):
        run.ended.clear()
        getattr(SynchronisationMixin, name)(run)
    assert asked == [alone, *[["0", "1", "server a", "server b", "server c"]] * 2]


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
    for verls in TRAINERS:
        asking = _asking(verls, r"self\.\w+_wg\b")
        assert "_update_actor" in asking
        assert asking - others <= set(PHASES), asking - others - set(PHASES)
    assert set(PHASES) <= set(vars(PhasesMixin))


def test_no_wait_of_verls_for_engines_is_left_out():
    # their start, which has a deadline of its own; what verl does with a reward model, which is refused, and with
    # engines on the trainer's devices beside the servers, which do not exist with `hybrid_engine=false`
    others = {"_setup", "_validate", "switch_to_rollout", "switch_to_trainer"}
    for verls in TRAINERS:
        asking = _asking(verls, r"self\.\w*checkpoint_manager\.")
        assert asking - others <= set(SYNCHRONISATIONS), asking - others - set(SYNCHRONISATIONS)
    for verls in (PPOTrainerSync, PPOTrainerColocateAsync):
        assert set(SYNCHRONISATIONS) <= _asking(verls, r"self\.checkpoint_manager\.")
    assert set(SYNCHRONISATIONS) <= set(vars(SynchronisationMixin))


def _asking(verls: type, pattern: str) -> set[str]:
    """Return the methods of a trainer of verl's in whose source a pattern stands."""
    methods = inspect.getmembers(verls, inspect.isfunction)
    return {name for name, method in methods if re.search(pattern, inspect.getsource(method))}
