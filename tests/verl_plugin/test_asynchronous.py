"""Tasks in play outlive the process as numbers, and verl's pickles of them are never written."""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync

from tests.verl_plugin.scripted_queue import ScriptedQueue, async_buffer, tasks
from trm_agent.runs.checkpoint_pickles import check_checkpoint
from trm_agent.runs.compose import compose_run
from trm_agent.runs.tasks_in_play import IN_PLAY, TaskInPlay, read_tasks_in_play
from trm_agent.verl_plugin.driver import asynchronous
from trm_agent.verl_plugin.driver.asynchronous import AsynchronousMixin, _batch_of
from trm_agent.verl_plugin.driver.dataset import EnvDataset
from trm_agent.verl_plugin.driver.trainer import trainer_class
from trm_agent.verl_plugin.rollout.resuming_client import ResumingClient


class Dataset:
    def __getitem__(self, index):
        return {"raw_prompt": f"task {index}", "index": index}


class Base:
    """verl's trainer, as far as it matters here."""

    def _submit_batch_to_rollout(self, batch):
        tags = {uid: {"is_prompt": True} for uid in batch["uid"]}
        self.queue["train"] |= tags
        self.submitted += list(zip(batch["uid"], batch["index"], strict=True))
        return len(batch["uid"])

    def _next_train_batch(self, number=8):
        return {"uid": [f"u{task}" for task in range(number)], "index": list(range(number))}

    def _save_checkpoint(self):
        self.modes.append(self.trainer_mode)
        # as verl's, last of all
        assert (self.folder / f"global_step_{self.global_steps}" / IN_PLAY).exists()

    def _load_checkpoint(self):
        self.modes.append(self.trainer_mode)
        raise KeyError("no such file")


class Trainer(AsynchronousMixin, Base):
    def __init__(self, folder, queue, step=3, resumed=None):
        self.folder, self.queue, self.global_steps = folder, queue, step
        self.submitted, self.modes, self.trainer_mode = [], [], "colocate_async"
        self.train_dataset = Dataset()
        mode = {"resume_mode": "auto"} if resumed is None else {"resume_mode": "resume_path"}
        paths = {"default_local_dir": str(folder), "resume_from_path": str(resumed)}
        self.config = OmegaConf.create({"trainer": {**mode, **paths}, "data": {"train_batch_size": 8}})


@pytest.fixture
def queue(monkeypatch):
    made = {"train": {}}
    monkeypatch.setattr(asynchronous, "tq", SimpleNamespace(kv_list=lambda name: {name: made[name]}))
    return made


def draw(trainer, *tasks):
    trainer._submit_batch_to_rollout({"uid": [f"u{task}" for task in tasks], "index": list(tasks)})


def test_the_tasks_in_play_are_drawn_again_in_their_order_and_nothing_else_is(tmp_path, queue):
    trainer = Trainer(tmp_path, queue)
    draw(trainer, 4, 5, 6)
    draw(trainer, 7, 8)
    # two were trained on; one of the others has an episode already
    for uid in ("u4", "u6"):
        del queue["train"][uid]
    queue["train"]["u5_0_0"] = {"status": "success"}
    trainer._save_checkpoint()
    folder = tmp_path / "global_step_3"
    assert json.loads((folder / IN_PLAY).read_text()) == {"tasks": [5, 7, 8]}
    # verl saves its queue's pickles in any other mode
    assert (trainer.modes, trainer.trainer_mode) == (["sync"], "colocate_async")
    check_checkpoint(folder)
    queue["train"].clear()
    resumed = Trainer(tmp_path, queue, step=4, resumed=folder)
    assert resumed._reissue_inflight_prompts() == resumed._restored_tq_prompt_count == 3
    assert [task for _, task in resumed.submitted] == [5, 7, 8]
    assert len({uid for uid, _ in resumed.submitted}) == 3
    # and once more, from where it stands now
    resumed._save_checkpoint()
    assert read_tasks_in_play(tmp_path / "global_step_4") == [TaskInPlay(task) for task in (5, 7, 8)]


def test_a_task_keeps_the_horizon_that_a_curriculum_chose(tmp_path, queue):
    env = {
        "id": "trm/ChainMath-v0",
        "train": {
            "horizons": [2, 4],
            "split": "train",
            "num_tasks": 50,
            "seed": 0,
            "curriculum": {"enable": True, "floor_share": 0.0, "low": 0.2, "high": 0.8, "memory_groups": 1},
        },
    }
    dataset = EnvDataset("train", config=OmegaConf.create({"env": env}))
    trainer = Trainer(tmp_path, queue)
    trainer.train_dataset = dataset
    # only the shorter ones, as long as the longer ones never succeed
    dataset.curriculum.load_state_dict({"2": 0.5, "4": 0.0})
    drawn = [dataset[task] for task in range(5)]
    rows = [row["env_task"] for row in drawn]
    trainer._submit_batch_to_rollout({"uid": list("abcde"), "index": range(5), "env_task": rows})
    trainer._save_checkpoint()
    found = read_tasks_in_play(tmp_path / "global_step_3")
    assert found == [TaskInPlay(task, 2) for task in range(5)]
    # a new process, before verl's loader has restored the means
    dataset.curriculum.load_state_dict({"2": 0.0, "4": 0.5})
    assert [dataset[task]["data_source"] for task in range(5)] == ["h4"] * 5
    batch = _batch_of(dataset, found, 4)
    assert list(batch["env_task"]) == rows
    assert list(batch["data_source"]) == ["h2"] * 5


def test_a_new_run_and_a_checkpoint_with_nothing_in_play_draw_none(tmp_path, queue):
    assert Trainer(tmp_path, queue)._reissue_inflight_prompts() == 0
    (tmp_path / "global_step_2").mkdir()
    resumed = Trainer(tmp_path, queue, resumed=tmp_path / "global_step_2")
    assert (resumed._reissue_inflight_prompts(), resumed.submitted) == (0, [])


def test_a_checkpoint_that_cannot_be_loaded_leaves_the_mode_as_it_was(tmp_path, queue):
    trainer = Trainer(tmp_path, queue)
    with pytest.raises(KeyError):
        trainer._load_checkpoint()
    assert (trainer.modes, trainer.trainer_mode) == (["sync"], "colocate_async")


@pytest.mark.parametrize("text", ['{"tasks": [1, "2"]}', '{"tasks": [-1]}', "[1]", "{}"])
def test_a_file_of_other_things_is_refused(tmp_path, text):
    (tmp_path / IN_PLAY).write_text(text)
    with pytest.raises(ValueError, match=rf"{IN_PLAY}: not the numbers of tasks"):
        read_tasks_in_play(tmp_path)


@pytest.mark.parametrize("horizons", ["[2]", "[2, 0]", "null", '["2", "4"]'])
def test_horizons_that_are_not_those_of_the_tasks_are_refused(tmp_path, horizons):
    (tmp_path / IN_PLAY).write_text(f'{{"tasks": [1, 2], "horizons": {horizons}}}')
    with pytest.raises(ValueError, match=rf"{IN_PLAY}: not one horizon for each task"):
        read_tasks_in_play(tmp_path)


def test_only_an_asynchronous_trainer_has_the_additions():
    assert issubclass(trainer_class("colocate_async"), AsynchronousMixin)
    assert not issubclass(trainer_class("sync"), AsynchronousMixin)


def test_its_client_resumes_turns(tmp_path, queue):
    trainer = Trainer(tmp_path, queue)
    trainer.llm_server_manager = SimpleNamespace(get_client=lambda client_cls: client_cls)
    assert trainer.get_llm_client() is ResumingClient


@pytest.mark.parametrize("needed", [8, 3, 0])
def test_a_step_draws_no_more_tasks_than_are_needed(needed, tmp_path, queue):
    trainer, asked = Trainer(tmp_path, queue, step=5), []
    trainer.replay_buffer = SimpleNamespace(num_to_draw=lambda *told: asked.append(told) or needed)
    trainer._add_batch_to_generate()
    assert len(trainer.submitted) == needed
    assert asked == [(5, 8)]


def test_the_buffer_knows_the_last_step(tmp_path):
    made = object.__new__(trainer_class("colocate_async"))
    made.config = compose_run(["experiment=math_nano_async", f"run.dir={tmp_path}"])
    made.trainer_mode = "colocate_async"
    assert made._build_replay_buffer().last_step == made.config.trainer.total_training_steps == 40


@pytest.mark.parametrize(
    ("step", "restored", "drawn"),
    [
        # of a new run, and of one that has long to go: two batches of eight in play, those of the checkpoint included
        (1, 0, 16),
        (20, 13, 3),
        # the last step but one needs two batches, the last one
        (39, 13, 3),
        (40, 8, 0),
        (40, 5, 3),
        (40, 0, 8),
    ],
)
def test_a_run_that_is_resumed_near_its_end_draws_no_task_for_steps_that_do_not_come(
    step, restored, drawn, monkeypatch
):
    made = object.__new__(trainer_class("colocate_async"))
    preset = ["experiment=math_nano_async", "data.train_batch_size=8", "trainer.v1.colocate_async.num_warmup_batches=2"]
    made.config, made.global_steps, made._restored_tq_prompt_count = compose_run(preset), step, restored
    made.replay_buffer = SimpleNamespace(last_step=40)
    asked = []
    monkeypatch.setattr(type(made), "_add_prompts_to_generate", lambda _, number: asked.append(number))
    # past what the others of our mixins do as training begins
    PPOTrainerColocateAsync.on_train_begin(made)
    assert sum(asked) == drawn


def test_a_resumed_run_plays_in_its_last_step_what_was_restored_and_nothing_else(monkeypatch):
    queue = ScriptedQueue(lambda _: (1, 0), delay=lambda task: 9 if task < 4 else 1)
    queue.step = 40
    made = object.__new__(trainer_class("colocate_async"))
    made.config = compose_run(["experiment=math_nano_async", "data.train_batch_size=4"])
    made.config.trainer.v1.colocate_async.num_warmup_batches = 2
    made.global_steps, made._restored_tq_prompt_count = 40, 4
    made.replay_buffer = async_buffer(queue, monkeypatch, size=4, ahead=2)
    made.replay_buffer.last_step = 40
    monkeypatch.setattr(type(made), "_add_prompts_to_generate", lambda _, number: queue.draw(number))
    monkeypatch.setattr(type(made), "_next_train_batch", lambda _, number: number)
    monkeypatch.setattr(type(made), "_submit_batch_to_rollout", lambda _, number: queue.draw(number))
    # the four that were in play at the checkpoint are slow
    queue.draw(4)
    PPOTrainerColocateAsync.on_train_begin(made)
    made._add_batch_to_generate()
    batch, _ = made.replay_buffer.sample(40, "train", 4)
    assert tasks(batch) == ["t0", "t1", "t2", "t3"]
    assert queue.num_drawn == 4
