"""What a trainer says of the episodes that it waits for."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from trm_agent.runs.progress import read_phase
from trm_agent.verl_plugin.driver.trainer import trainer_class
from trm_agent.verl_plugin.driver.waiting import WaitingMixin


class Base:
    """verl's trainer, as far as a step goes."""

    global_steps, parameter_sync_step, local_trigger_step = 4, 2, 0

    def on_step_begin(self) -> None: ...

    def on_sample_begin(self) -> None: ...

    def on_sample_end(self) -> None: ...


class Trainer(WaitingMixin, Base):
    def __init__(self, run: Path) -> None:
        rollout = SimpleNamespace(rollout=SimpleNamespace(n=8))
        parts = {"run": SimpleNamespace(dir=str(run)), "data": SimpleNamespace(train_batch_size=6)}
        self.config = SimpleNamespace(**parts, actor_rollout_ref=rollout)


def test_each_update_of_a_step_says_which_episodes_it_waits_for(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    told = []
    trainer.on_step_begin()
    for trainer.local_trigger_step in (0, 1):
        trainer.on_sample_begin()
        told.append(read_phase(tmp_path))
        trainer.on_sample_end()
        assert read_phase(tmp_path) is None
    # six tasks of eight episodes, half of them for each update; the first wait begins with the step
    found = [(phase.name, phase.total) for phase in told if phase is not None]
    assert found == [("step 4: generation", 24), ("step 4: generation for update 2", 24)]


def test_verls_own_trainer_has_the_hook(tmp_path: Path) -> None:
    made = object.__new__(trainer_class("separate_async"))
    made.config = Trainer(tmp_path).config
    made.global_steps, made.parameter_sync_step, made.local_trigger_step = 4, 2, 1
    made.hybrid_rollout_config = SimpleNamespace(enable_switch=False)
    made.on_sample_begin()
    phase = read_phase(tmp_path)
    assert phase is not None
    assert (phase.name, phase.total) == ("step 4: generation for update 2", 24)
