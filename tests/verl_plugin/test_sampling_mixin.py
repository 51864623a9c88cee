"""What a trainer adds for dynamic sampling: on the run's own trainer class, of which nothing is started."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

pytest.importorskip("verl")

import transfer_queue as tq
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.v1 import trainer_base

from trm_agent.runs.compose import compose_run
from trm_agent.runs.progress import begin_phase, read_phase
from trm_agent.verl_plugin.driver import trainer
from trm_agent.verl_plugin.driver.curriculum import Curriculum
from trm_agent.verl_plugin.driver.dynamic_sampling import GroupWatch
from trm_agent.verl_plugin.driver.group_signal import Group
from trm_agent.verl_plugin.driver.sampling_mixin import LeftOut, filter_of
from trm_agent.verl_plugin.rollout.overlong import OVERLONG_PARTITION

NANO = compose_run(["experiment=math_nano"])
ENABLE = "algorithm.filter_groups.enable"


def ours(tmp_path: Path, **changes: Any) -> Any:
    made = object.__new__(trainer.trainer_class("sync"))
    made.config = OmegaConf.merge(NANO, {"run": {"dir": str(tmp_path)}})
    OmegaConf.resolve(made.config)
    for name, value in changes.items():
        OmegaConf.update(made.config, name.replace("__", "."), value)
    made.global_steps, made.parameter_sync_step, made.trainer_mode = 3, 1, "sync"
    made.train_dataset = SimpleNamespace(curriculum=None)
    return made


@pytest.mark.parametrize(
    ("filtering", "choosing", "watches"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
def test_the_buffer_watches_only_where_that_is_asked_for(filtering, choosing, watches, tmp_path):
    made = ours(tmp_path, algorithm__filter_groups__enable=filtering, env__train__curriculum__enable=choosing)
    buffer = made._build_replay_buffer()
    assert (buffer.watch is not None) == watches
    assert (bool(watches) and buffer.watch.filter is not None) == filtering


def test_the_filter_has_the_fields_of_verl():
    config = OmegaConf.merge(NANO, {"algorithm": {"filter_groups": {"metric": "acc", "max_num_gen_batches": 7}}})
    assert filter_of(config) is None
    config.algorithm.filter_groups.enable = True
    found = filter_of(config)
    assert (found.metric, found.max_batches, found.short_batch, found.max_failed_batches) == ("acc", 7, "stop", 3)
    assert not found.best_alone
    config.algorithm.adv_estimator = "grpo_passk"
    assert filter_of(config).best_alone


def test_a_filter_draws_no_task_twice_and_the_screen_waits_for_what_is_drawn(tmp_path, monkeypatch):
    made = ours(tmp_path, algorithm__filter_groups__enable=True, env__train__num_tasks=20)
    made.train_dataset = list(range(20))
    made.train_dataloader = StatefulDataLoader(made.train_dataset, batch_size=1)
    rows, drawn = iter(made.train_dataloader), []

    def draw(_: Any, number: int | None = None) -> None:
        drawn.extend(int(next(rows)) for _ in range(number or 16))

    monkeypatch.setattr(trainer_base.PPOTrainer, "_next_train_batch", draw)
    begin_phase(tmp_path, "step 3: generation", 128, 0.0)
    monkeypatch.setattr(trainer_base.PPOTrainer, "_submit_batch_to_rollout", lambda *_: 0)
    made._add_batch_to_generate()
    made._add_prompts_to_generate(4)
    assert drawn == list(range(20))
    # 4 tasks of 8 episodes more
    assert read_phase(tmp_path).total == 160
    with pytest.raises(ValueError, match=r"^env.train.num_tasks: got 20; allowed: at least 21, .* by step 3; raise it"):
        made._next_train_batch(1)
    # any run replaces tasks: a batch that failed or was masked as a whole
    made.config.algorithm.filter_groups.enable = False
    with pytest.raises(ValueError, match=r"^env.train.num_tasks: got 20; allowed: at least 21, .* in place of others"):
        made._next_train_batch(1)


def test_a_synchronous_run_draws_no_task_twice(tmp_path, monkeypatch):
    made = ours(tmp_path, env__train__num_tasks=40)
    made.train_dataset = list(range(40))
    made.train_dataloader = StatefulDataLoader(made.train_dataset, batch_size=16, drop_last=True)
    rows, drawn = iter(made.train_dataloader), []
    monkeypatch.setattr(trainer_base.PPOTrainer, "_next_train_batch", lambda *_: drawn.extend(next(rows).tolist()))
    monkeypatch.setattr(trainer_base.PPOTrainer, "_submit_batch_to_rollout", lambda *_: 0)
    made._add_batch_to_generate()
    made._add_batch_to_generate()
    assert drawn == list(range(32))
    # every episode of a batch failed: of 2 batches and 8 tasks nothing is left for it
    with pytest.raises(ValueError, match=r"^env.train.num_tasks: got 40; allowed: at least 48, .* by step 3; raise it"):
        made._add_prompts_to_generate(16)


def test_a_batch_in_place_of_another_that_the_last_step_will_lack_is_told_at_once(tmp_path, monkeypatch, caplog):
    made = ours(tmp_path, env__train__num_tasks=64, trainer__total_training_steps=4)
    made.train_dataset = list(range(64))
    made.train_dataloader = StatefulDataLoader(made.train_dataset, batch_size=16, drop_last=True)
    rows = iter(made.train_dataloader)
    monkeypatch.setattr(trainer_base.PPOTrainer, "_next_train_batch", lambda *_: next(rows))
    monkeypatch.setattr(trainer_base.PPOTrainer, "_submit_batch_to_rollout", lambda *_: 0)
    for made.global_steps in (1, 2):
        made._add_batch_to_generate()
    assert not caplog.records
    begin_phase(tmp_path, "step 2: generation", 128, 0.0)
    made._add_prompts_to_generate(16)
    (told,) = caplog.records
    assert told.getMessage().startswith("step 2: with those in place of others the run needs 80 tasks, and env.train.")


def test_tasks_are_counted_and_not_the_batches_of_a_run_that_had_others(tmp_path, monkeypatch):
    rows = list(range(40))
    theirs = StatefulDataLoader(rows, batch_size=4, drop_last=True)
    drawn = iter(theirs)
    for _ in range(5):
        next(drawn)
    for batch_size in (8, 1):
        made = ours(tmp_path, env__train__num_tasks=40)
        made.train_dataset, made.train_dataloader = rows, StatefulDataLoader(rows, batch_size=batch_size)
        made.train_dataloader.load_state_dict(theirs.state_dict())
        assert made._num_drawn() == 20
        next(iter(made.train_dataloader))
        assert made._num_drawn() == 20 + batch_size


def watch_of(*groups: Group, takes: bool = True) -> GroupWatch:
    """The watch of a step of two tasks that has found these groups, and has taken those with signal or not yet."""
    config = OmegaConf.merge(NANO, {"algorithm": {"filter_groups": {"enable": True}}})
    rows = {
        f"{number}_{row}_0": (
            value,
            {"horizon": group.horizon, "success": success, "model_tokens": group.num_tokens / 2},
        )
        for number, group in enumerate(groups)
        for row, (value, success) in enumerate(zip(group.values, group.successes, strict=True))
    }
    masked = [{"uid": str(number)} for number, group in enumerate(groups) for _ in range(group.num_masked)]
    made = GroupWatch(filter_of(config), lambda keys: [rows[key] for key in keys])
    made.begin(2)
    made.judge([str(number) for number in range(len(groups))], rows, masked)
    if takes:
        made.take(list(made.waiting))
    return made


def test_what_was_played_and_not_trained_on_counts(tmp_path, monkeypatch):
    made = ours(tmp_path, algorithm__filter_groups__enable=True, env__overlong__treatment="mask")
    mixed = Group(2, [1.0, 0.0], [True, False], num_tokens=20)
    right = Group(2, [1.0, 1.0], [True, True], num_tokens=30, num_masked=1)
    made.replay_buffer = SimpleNamespace(watch=watch_of(mixed, right, mixed))
    masked = {"m": {"uid": "1", "model_tokens": 7}}
    cleared = []
    monkeypatch.setattr(tq, "kv_list", lambda _: {OVERLONG_PARTITION: masked})
    monkeypatch.setattr(tq, "kv_clear", lambda keys, partition_id: cleared.append((keys, partition_id)))
    metrics, left_out = made._sampling_metrics([{"success": True}, {"success": False}] * 2)
    assert cleared == [(["m"], OVERLONG_PARTITION)]
    # two episodes of the group that is all right, and a masked one: 37 tokens
    assert left_out == LeftOut(3, 2, 37)
    # 2 of 4 that were trained on, 2 of 2, 0 of 1
    assert metrics["env/played_success"] == pytest.approx(4 / 7)
    assert (metrics["env/overlong/masked"], metrics["env/groups/without_signal/all_right"]) == (1.0, 1.0)
    assert made._num_tasks() == 2


def test_masked_episodes_of_a_task_in_play_count_when_it_is_done(tmp_path, monkeypatch):
    made = ours(tmp_path, env__overlong__treatment="mask")
    made.replay_buffer = SimpleNamespace(watch=None)
    queue = {
        OVERLONG_PARTITION: {name: {"uid": name[0], "model_tokens": 7} for name in ("a1", "a2", "b1")},
        "train": {"a": {"is_prompt": True}, "a_0_0": {}, "b_0_0": {}},
    }
    monkeypatch.setattr(tq, "kv_list", lambda name: {name: dict(queue[name])})
    monkeypatch.setattr(tq, "kv_clear", lambda keys, partition_id: [queue[partition_id].pop(key) for key in keys])
    # a key whose tag is still on its way
    queue[OVERLONG_PARTITION]["c1"] = {}
    assert made._sampling_metrics([])[0]["env/overlong/masked"] == 1
    assert set(queue[OVERLONG_PARTITION]) == {"a1", "a2", "c1"}
    del queue["train"]["a"]
    assert made._sampling_metrics([])[0]["env/overlong/masked"] == 2
    assert made._sampling_metrics([])[0]["env/overlong/masked"] == 0


def test_a_plain_run_has_none_of_these_metrics(tmp_path):
    made = ours(tmp_path)
    made.replay_buffer = SimpleNamespace(watch=None)
    assert made._sampling_metrics([{"success": True}]) == ({}, LeftOut())
    assert made._num_tasks() == 16


def test_the_curriculum_learns_from_a_step_before_it_is_saved(tmp_path, monkeypatch):
    made = ours(tmp_path, env__train__curriculum__enable=True)
    curriculum = Curriculum([2, 4], 0, made.config.env.train.curriculum)
    made.train_dataset = SimpleNamespace(curriculum=curriculum)
    made.replay_buffer = SimpleNamespace(watch=watch_of(Group(2, [1.0], [True]), Group(4, [0.0, 1.0], [False, True])))
    monkeypatch.setattr(trainer_base.PPOTrainer, "on_sample_end", lambda _: None)
    monkeypatch.setattr("verl.trainer.ppo.v1.trainer_sync.PPOTrainerSync.on_sample_end", lambda _: None)
    made.on_sample_end()
    assert curriculum.success == {2: 1.0, 4: 0.5}
    metrics, _ = made._sampling_metrics([])
    # the step's tasks were drawn before that was known
    assert metrics["env/curriculum/probability/h2"] == pytest.approx(0.5)
    assert metrics["env/curriculum/share/h4"] == pytest.approx(0.5)
    assert curriculum.probabilities()[4] == pytest.approx(0.9)


def test_each_update_of_a_step_teaches_the_curriculum_its_own_groups_once(tmp_path, monkeypatch):
    made = ours(tmp_path, env__train__curriculum__enable=True)
    curriculum = Curriculum([2, 4], 0, made.config.env.train.curriculum)
    made.train_dataset = SimpleNamespace(curriculum=curriculum)
    mixed = [Group(horizon, [1.0, 0.0], [True, False]) for horizon in (2, 4)]
    watch = watch_of(*mixed, Group(2, [0.0, 0.0], [False, False]), takes=False)
    made.replay_buffer = SimpleNamespace(watch=watch)
    monkeypatch.setattr("verl.trainer.ppo.v1.trainer_sync.PPOTrainerSync.on_sample_end", lambda _: None)
    observed: list[int] = []
    monkeypatch.setattr(curriculum, "observe", lambda groups: observed.append(len(list(groups))))
    probabilities = iter([{2: 0.3, 4: 0.7}, {2: 0.5, 4: 0.5}])
    monkeypatch.setattr(curriculum, "probabilities", lambda: next(probabilities))
    for uid in "01":
        watch.take([uid])
        made.on_sample_end()
        # one of the two, whatever waits for the next update
        assert made._num_tasks() == 1
    # the group that was left out, and one in each update
    assert observed == [2, 1]
    # the step's tasks were drawn before its first update
    assert made._sampling_metrics([])[0]["env/curriculum/probability/h2"] == 0.3
