"""What a trainer adds around checkpoints, on a stand-in with the loop of verl's `PPOTrainer.fit`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from trm_agent.runs.endings.keeping import Keeping, most_at_once
from trm_agent.runs.endings.stopping import STOP_FILE, StopRequested
from trm_agent.runs.folder import METRICS_FILE, checkpoint_step, read_metrics, saved_steps
from trm_agent.runs.screen import VALIDATION_FAILURES
from trm_agent.verl_plugin.driver import hung, trainer
from trm_agent.verl_plugin.driver.queue_clock import QueueClock
from trm_agent.verl_plugin.driver.saving import SavingMixin


class Killed(BaseException):
    """Stands for kill -9: nothing of ours runs after it."""


class Loop:
    """The order of verl's calls; a step, a validation and a checkpoint do nothing but leave their marks."""

    def __init__(self, run: Path, steps: int, stop_in: str = "", **trainer: Any) -> None:
        checkpoints = run / "checkpoints"
        fields = {"total_training_steps": steps, "save_freq": 2, "test_freq": 2, "val_before_train": True}
        keep = {"max_actor_ckpt_to_keep": 2, "default_local_dir": str(checkpoints)}
        self.config: Any = OmegaConf.create(
            {
                "run": {"dir": str(run), "keep_best": None, "keep_every": None},
                "trainer": {**fields, **keep, **trainer},
                "actor_rollout_ref": {"actor": {}},
            }
        )
        OmegaConf.set_struct(self.config, True)
        self.run, self.stop_in, self.kill_in = run, stop_in, ""
        self.replay_buffer = SimpleNamespace(is_stopped=lambda: False)
        self._load_checkpoint()

    def _mark(self, place: str) -> None:
        if place == self.kill_in:
            raise Killed
        if place == self.stop_in:
            (self.run / STOP_FILE).write_text("")

    def _load_checkpoint(self) -> None:
        self.global_steps = checkpoint_step(self.run)

    def on_train_begin(self) -> None:
        pass

    def on_step_begin(self) -> None:
        self._mark(f"step {self.global_steps}")

    def on_step_end(self) -> None:
        self._mark(f"end of step {self.global_steps}")

    def _save_checkpoint(self) -> None:
        folder = self.run / "checkpoints" / f"global_step_{self.global_steps}"
        (folder / "actor").mkdir(parents=True)
        (folder / "data.pt").write_text("")
        (self.run / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(self.global_steps))

    def _validate(self) -> dict[str, float]:
        self._mark(f"validation {self.global_steps}")
        if self.replay_buffer.is_stopped():
            raise StopRequested("during a validation")
        return {VALIDATION_FAILURES: 0.0}

    def _log(self, row: dict[str, Any]) -> None:
        self._mark(f"row {self.global_steps}")
        with (self.run / METRICS_FILE).open("a") as file:
            file.write(json.dumps({"step": self.global_steps, **row}) + "\n")

    def fit(self, _: Any) -> None:
        trainer = self.config.trainer
        if trainer.val_before_train:
            self._log(self._validate())
        self.global_steps += 1
        self.on_train_begin()
        while self.global_steps <= trainer.total_training_steps:
            is_last = self.global_steps >= trainer.total_training_steps
            row: dict[str, Any] = {}
            self.on_step_begin()
            if trainer.save_freq > 0 and (is_last or self.global_steps % trainer.save_freq == 0):
                self._save_checkpoint()
            self.on_step_end()
            if trainer.test_freq > 0 and (is_last or self.global_steps % trainer.test_freq == 0):
                row = self._validate()
            self._log(row)
            self.global_steps += 1


class Trainer(SavingMixin, Loop):
    """The stand-in with our additions."""


def fitted(trainer: Trainer) -> str:
    """The words of the stop; "" if the training came to its end."""
    try:
        trainer.fit(None)
    except StopRequested as stop:
        return str(stop)
    return ""


def validated(run: Path) -> list[int]:
    return [row["step"] for row in read_metrics(run) if VALIDATION_FAILURES in row]


def resumed(run: Path, steps: int) -> Trainer:
    """As the command resumes a run."""
    (run / STOP_FILE).unlink()
    return Trainer(run, steps, val_before_train=False)


def test_no_checkpoint_falls_under_the_deadline_of_a_synchronisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    @contextmanager
    def deadline(*_: Any) -> Iterator[None]:
        calls.append("deadline")
        yield

    class Base(Loop):
        def on_step_end(self) -> None:
            calls.append("synchronisation")

        def _save_checkpoint(self) -> None:
            calls.append("checkpoint")

    monkeypatch.setattr(hung, "deadline", deadline)
    monkeypatch.setattr(trainer, "get_trainer_cls", lambda _: Base)
    monkeypatch.setattr(trainer.actor_update, "install", lambda: None)
    made = object.__new__(trainer.trainer_class("sync"))
    run = {"dir": str(tmp_path), "weight_sync_timeout_s": 1, "phase_timeout_s": None}
    made.config = OmegaConf.create({"run": run})
    made.global_steps, made._kept = 1, Keeping(2)
    made.llm_server_manager = SimpleNamespace(server_handles=[])
    made.replay_buffer = SimpleNamespace(queue_clock=QueueClock())
    (tmp_path / STOP_FILE).write_text("")
    made.on_step_end()
    assert calls == ["checkpoint", "deadline", "synchronisation"]


def test_a_run_to_its_end_keeps_the_newest_two(tmp_path: Path) -> None:
    assert fitted(Trainer(tmp_path, 7)) == ""
    assert saved_steps(tmp_path) == [6, 7]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "global_step_6",
        "global_step_7",
        "latest_checkpointed_iteration.txt",
    }


@pytest.mark.parametrize("kill_in", ["end of step 4", "validation 4", "row 4", "step 5"])
def test_a_run_that_keeps_one_checkpoint_loses_none_of_its_rows_to_a_kill(tmp_path: Path, kill_in: str) -> None:
    trainer = Trainer(tmp_path, 6, max_actor_ckpt_to_keep=1)
    trainer.kill_in = kill_in
    with pytest.raises(Killed):
        trainer.fit(None)
    # the row of step 4 is written before step 5 begins, and not before
    is_written = kill_in == "step 5"
    assert checkpoint_step(tmp_path) == (4 if is_written else 2)
    assert saved_steps(tmp_path) == ([4] if is_written else [2, 4])
    assert fitted(Trainer(tmp_path, 6, val_before_train=False, max_actor_ckpt_to_keep=1)) == ""
    assert saved_steps(tmp_path) == [6]
    assert validated(tmp_path) == [0, 2, 4, 6]


def test_there_are_never_more_checkpoints_than_the_disk_was_planned_for(tmp_path: Path) -> None:
    most: list[int] = []

    class Counting(Trainer):
        def _mark(self, place: str) -> None:
            most.append(len(saved_steps(tmp_path)))

    assert fitted(Counting(tmp_path, 9, max_actor_ckpt_to_keep=1)) == ""
    assert max(most) == most_at_once(Keeping(1), 5, 9) == 2


def test_the_best_stays_beside_them(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, 8)
    trainer.config.run.keep_best = VALIDATION_FAILURES
    values = {2: 0.5, 4: 0.9, 6: 0.1, 8: 0.2}
    trainer._log = lambda row: Loop._log(trainer, {**row, VALIDATION_FAILURES: values.get(trainer.global_steps, 0.0)})  # type: ignore[method-assign]
    assert fitted(trainer) == ""
    assert saved_steps(tmp_path) == [4, 6, 8]


@pytest.mark.parametrize(
    ("stop_in", "saved", "rows"),
    [
        ("step 3", 3, [0, 1, 2, 3]),  # saves though no checkpoint is due
        ("end of step 3", 4, [0, 1, 2, 3, 4]),  # too late for step 3
        ("step 4", 4, [0, 1, 2, 3, 4]),
        ("validation 4", 4, [0, 1, 2, 3, 4]),
    ],
)
def test_a_stop_saves_its_step_and_the_same_command_loses_nothing(
    tmp_path: Path, stop_in: str, saved: int, rows: list[int]
) -> None:
    assert f"after step {saved}, which is saved" in fitted(Trainer(tmp_path, 6, stop_in))
    assert checkpoint_step(tmp_path) == saved
    assert [row["step"] for row in read_metrics(tmp_path)] == rows
    assert fitted(resumed(tmp_path, 6)) == ""
    # no validation is left out for good, none is made twice
    assert validated(tmp_path) == [0, 2, 4, 6]
    assert sorted({row["step"] for row in read_metrics(tmp_path)}) == list(range(7))


def test_a_stop_in_the_last_validation_leaves_the_run_unfinished(tmp_path: Path) -> None:
    assert "before its validation" in fitted(Trainer(tmp_path, 4, "validation 4"))
    assert validated(tmp_path) == [0, 2]
    assert fitted(resumed(tmp_path, 4)) == ""
    assert validated(tmp_path) == [0, 2, 4]


def test_a_stop_in_the_first_validation_leaves_nothing(tmp_path: Path) -> None:
    assert "during a validation" in fitted(Trainer(tmp_path, 4, "validation 0"))
    assert (saved_steps(tmp_path), read_metrics(tmp_path)) == ([], [])
