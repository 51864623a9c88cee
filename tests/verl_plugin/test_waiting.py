"""What a trainer says of the episodes that it waits for."""

import functools
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf

from tests.verl_plugin.scripted_queue import ScriptedQueue, async_buffer
from trm_agent.runs.compose import compose_run
from trm_agent.runs.progress import Counter, begin_phase, progress_line, read_phase, tell_left
from trm_agent.verl_plugin.driver.trainer import trainer_class
from trm_agent.verl_plugin.driver.waiting import WaitingMixin


class Base:
    """verl's trainer, as far as a step goes."""

    global_steps, parameter_sync_step, local_trigger_step = 4, 2, 0

    def on_step_begin(self) -> None: ...

    def on_sample_begin(self) -> None: ...

    def on_sample_end(self) -> None: ...

    def _validate(self) -> dict[str, float]:
        return {}


class Trainer(WaitingMixin, Base):
    def __init__(self, run: Path, mode: str = "sync") -> None:
        env = {"val": {"num_tasks": 5, "greedy_tasks": 0}}
        rollout = {"n": 8, "val_kwargs": {"n": 1}}
        parts = {"run": {"dir": str(run)}, "data": {"train_batch_size": 6}, "trainer": {"v1": {"trainer_mode": mode}}}
        self.config = OmegaConf.create({**parts, "env": env, "actor_rollout_ref": {"rollout": rollout}})


# six tasks of eight episodes, half of them for each update; an asynchronous run counts the tasks
@pytest.mark.parametrize(("mode", "total", "left"), [("sync", 24, None), ("separate_async", 3, 3)])
def test_each_update_of_a_step_says_which_episodes_it_waits_for(
    mode: str, total: int, left: int | None, tmp_path: Path
) -> None:
    trainer = Trainer(tmp_path, mode)
    told = []
    trainer.on_step_begin()
    for trainer.local_trigger_step in (0, 1):
        trainer.on_sample_begin()
        told.append(read_phase(tmp_path))
        trainer.on_sample_end()
        assert read_phase(tmp_path) is None
    # the first wait begins with the step
    found = [(phase.name, phase.total, phase.left) for phase in told if phase is not None]
    assert found == [("step 4: generation", total, left), ("step 4: generation for update 2", total, left)]


def test_a_validation_counts_its_own_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, counter = Trainer(tmp_path, "colocate_async"), Counter(tmp_path)
    counter.add_episode(of_validation=True)
    lines = []

    def validate(_: Base) -> dict[str, float]:
        phase = read_phase(tmp_path)
        assert phase is not None
        # of training, whose episodes go on meanwhile
        counter.add_episode()
        counter.add_episode()
        lines.append(progress_line(tmp_path, phase, phase.began + 10))
        counter.add_episode(of_validation=True)
        lines.append(progress_line(tmp_path, phase, phase.began + 10))
        return {}

    monkeypatch.setattr(Base, "_validate", validate)
    trainer._validate()
    assert [line.split("  ")[1] for line in lines] == [
        "validation after step 4: 0/5 episodes",
        "validation after step 4: 1/5 episodes",
    ]


def test_a_straggler_that_a_step_waits_for_is_left_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a batch of four is ahead; task 0 takes 60 looks, all others one
    queue = ScriptedQueue(lambda _: (1, 0), delay=lambda task: 60 if task == 0 else 1)
    made = async_buffer(queue, monkeypatch, size=4, ahead=1, threshold=2)
    made.tell_left = functools.partial(tell_left, tmp_path)
    queue.draw(4)
    lines: dict[int, list[str]] = {}
    for step in (1, 2):
        queue.step = step
        begin_phase(tmp_path, "generation", 4, 0.0, in_tasks=True)
        queue.draw(made.num_to_draw(step, 4))
        seen = lines.setdefault(step, [])
        monkeypatch.setattr(
            made, "_wait_for_next_poll", lambda *_, seen=seen: (seen.append(told(tmp_path)), queue.tick())
        )
        made.sample(step, "train", 4)
        seen.append(told(tmp_path))
    # drawn in step 1, so that step 2 waits for it with three tasks of its own done, and a fourth one beside
    assert lines[1][0].startswith("0/4 tasks")
    assert lines[1][-1].startswith("4/4 tasks")
    assert len(lines[2]) > 50
    assert {line.partition("  ")[0] for line in lines[2][2:-1]} == {"3/4 tasks"}
    assert "0:00 left" not in lines[2][-2]
    assert lines[2][-1].startswith("4/4 tasks")


def told(run: Path) -> str:
    phase = read_phase(run)
    assert phase is not None
    return progress_line(run, phase, 10.0).removeprefix("  generation: ")


def test_verls_own_trainer_has_the_hook(tmp_path: Path) -> None:
    made = object.__new__(trainer_class("separate_async"))
    made.config = Trainer(tmp_path, "separate_async").config
    made.global_steps, made.parameter_sync_step, made.local_trigger_step = 4, 2, 1
    made.hybrid_rollout_config = SimpleNamespace(enable_switch=False)
    made.on_sample_begin()
    phase = read_phase(tmp_path)
    assert phase is not None
    assert (phase.name, phase.total) == ("step 4: generation for update 2", 3)


def test_the_buffer_of_an_asynchronous_trainer_tells_the_screen(tmp_path: Path) -> None:
    made = object.__new__(trainer_class("colocate_async"))
    made.config = compose_run(["experiment=math_nano_async", f"run.dir={tmp_path}"])
    made.trainer_mode = "colocate_async"
    begin_phase(tmp_path, "generation", 4, 0.0, in_tasks=True)
    made._build_replay_buffer().tell_left(1)
    assert told(tmp_path).startswith("3/4 tasks")
