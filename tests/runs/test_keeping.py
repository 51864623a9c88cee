"""The checkpoints that are kept, and the disk that they need."""

import json
import struct
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.endings.disk import check_disk, checkpoint_bytes, parameter_count, saves_left
from trm_agent.runs.endings.keeping import Keeping, kept_steps, lacks_best, most_at_once, tidy
from trm_agent.runs.folder import METRICS_FILE, saved_steps

VALUE = "env/val_success/h8"


def run_folder(path: Path, steps: list[int], last: int, values: dict[int, float] | None = None) -> Path:
    """A run with checkpoints, and the step of the last complete one."""
    for step in steps:
        (path / "checkpoints" / f"global_step_{step}" / "actor").mkdir(parents=True)
        (path / "checkpoints" / f"global_step_{step}" / "data.pt").write_text("x")
    (path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(last))
    rows = [{"step": step, **({VALUE: (values or {})[step]} if step in (values or {}) else {})} for step in steps]
    (path / METRICS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_newest_the_best_and_every_so_many_are_kept() -> None:
    saved = [10, 20, 30, 40, 50]
    rows = [{"step": step, VALUE: value} for step, value in ((0, 1.0), (10, 0.4), (20, 0.9), (30, 0.9), (40, 0.5))]
    assert kept_steps(saved, rows, Keeping(2)) == {40, 50}
    # of 20 and 30, which are equal, the later; step 0 has no checkpoint
    assert kept_steps(saved, rows, Keeping(2, best=VALUE)) == {30, 40, 50}
    assert kept_steps(saved, rows, Keeping(1, every=20)) == {20, 40, 50}
    assert kept_steps(saved, rows, Keeping(None)) == set(saved)
    assert kept_steps(saved, [{"step": 50, VALUE: None}], Keeping(2, best=VALUE)) == {40, 50}


def test_the_newest_whose_row_is_written_stays_whatever_the_limit() -> None:
    rows = [{"step": step, VALUE: 0.5} for step in range(39)]
    assert kept_steps([10, 20, 30, 40], rows, Keeping(1)) == {30, 40}
    # of two without a row, as after a kill
    assert kept_steps([10, 20, 40, 50], rows, Keeping(2)) == {20, 40, 50}
    # the best and each twentieth stay beside it, and it is no best by itself
    assert kept_steps([10, 20, 30, 40], [{"step": 10, VALUE: 0.9}, *rows[11:]], Keeping(1, best=VALUE)) == {10, 30, 40}
    assert kept_steps([10, 20, 30, 40], rows, Keeping(1, every=20)) == {20, 30, 40}
    assert kept_steps([10, 20, 30, 40], [*rows, {"step": 40}], Keeping(1)) == {40}
    assert kept_steps([10], [], Keeping(1)) == {10}


def test_tidying_leaves_the_kept_ones_and_nothing_half_written(tmp_path: Path) -> None:
    run = run_folder(tmp_path, [10, 20, 30, 40], 30, {10: 0.9, 20: 0.1})
    lone = run / "checkpoints" / "global_step_5"
    lone.mkdir()
    (lone / "data.pt").write_text("x")
    (run / "checkpoints" / "removed_step_1").mkdir()
    (run / "checkpoints" / "mine").mkdir()
    # 40 was being written when the run was killed
    assert tidy(run, Keeping(2, best=VALUE)) == []
    assert saved_steps(run) == [10, 20, 30]
    assert tidy(run, Keeping(2)) == [10]
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"global_step_20", "global_step_30", "mine", "latest_checkpointed_iteration.txt"}


def test_room_is_made_before_a_checkpoint_is_written_but_the_last_one_stays(tmp_path: Path) -> None:
    run = run_folder(tmp_path, [10, 20], 20)
    assert tidy(run, Keeping(2), before=30) == [10]
    assert tidy(run, Keeping(1), before=30) == []
    assert saved_steps(run) == [20]


def test_a_checkpoint_that_is_written_anew_costs_no_older_one(tmp_path: Path) -> None:
    # killed after the checkpoint of step 20 and before its metrics, the run was resumed after step 10
    run = run_folder(tmp_path, [10, 20], 20)
    assert tidy(run, Keeping(2), before=20) == []
    assert saved_steps(run) == [10]


def test_without_a_checkpoint_nothing_is_removed(tmp_path: Path) -> None:
    assert tidy(tmp_path, Keeping(2)) == []


@pytest.mark.parametrize(
    ("keeping", "num_saves", "number"),
    [
        (Keeping(2), 20, 2),
        (Keeping(1), 20, 2),  # the old one stays until the new one is written
        (Keeping(2), 1, 1),
        (Keeping(None), 20, 20),
        (Keeping(2, best=VALUE), 20, 3),
        (Keeping(2, every=100), 20, 6),  # 400 steps
    ],
)
def test_the_largest_number_at_a_time(keeping: Keeping, num_saves: int, number: int) -> None:
    assert most_at_once(keeping, num_saves, 400) == number


def test_a_best_that_never_came_is_told_at_the_end(tmp_path: Path) -> None:
    run = run_folder(tmp_path, [10, 20], last=20)
    assert lacks_best(run, None) == []
    assert lacks_best(run, VALUE) == [
        f"run.keep_best: no validation gave {VALUE}, so no checkpoint was kept as the best"
    ]
    with (run / METRICS_FILE).open("a") as file:
        file.write(json.dumps({"step": 25, VALUE: 0.5}) + "\n")
    assert lacks_best(run, VALUE) == [f"run.keep_best: {VALUE} came after steps 25, of which none has a checkpoint"]
    with (run / METRICS_FILE).open("a") as file:
        file.write(json.dumps({"step": 20, VALUE: 0.25}) + "\n")
    assert lacks_best(run, VALUE) == []


def model_folder(path: Path, *shapes: list[int]) -> Path:
    """A model with these tensors, of whose values nothing is read."""
    header = {f"t{number}": {"dtype": "F32", "shape": shape} for number, shape in enumerate(shapes)}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.mkdir()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def config(**trainer: object) -> DictConfig:
    """The fields that decide the need."""
    return OmegaConf.create(
        {
            "run": {"keep_best": None, "keep_every": None},
            "trainer": {"save_freq": 10, "total_training_steps": 40, "max_actor_ckpt_to_keep": 2, **trainer},
            "algorithm": {"adv_estimator": "grpo"},
            "critic": {"enable": None},
            "actor_rollout_ref": {"actor": {"fsdp_config": {"model_dtype": "fp32"}}, "model": {}},
        }
    )


def test_a_checkpoint_has_the_parameters_and_two_moments_of_each(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", [1000, 10], [5])
    assert parameter_count(str(model)) == 10_005
    assert checkpoint_bytes(config(), str(model)) == 10_005 * 12
    half = config()
    half.actor_rollout_ref.actor.fsdp_config.model_dtype = "bfloat16"
    assert checkpoint_bytes(half, str(model)) == 10_005 * 6
    (model / "model.safetensors").write_bytes(b"broken")
    assert parameter_count(str(model)) is None
    assert parameter_count(str(tmp_path)) is None


def test_the_need_is_told_and_refused_where_the_disk_is_smaller(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", [8_190_735_360])
    with pytest.raises(ValueError, match=r"trainer\.max_actor_ckpt_to_keep: got 2000, which needs .* GiB") as refused:
        # 98 GB each, as for Qwen3-8B
        check_disk(config(max_actor_ckpt_to_keep=2000, total_training_steps=20_000), tmp_path, str(model))
    assert "91.5 GiB each" in str(refused.value)
    small = model_folder(tmp_path / "s", [1024, 1024])
    told = check_disk(config(), tmp_path, str(small))
    # 2 ** 20 parameters of 12 bytes
    assert told.startswith("disk: 24.0 MiB for checkpoints (2 at a time, 12.0 MiB each), ")
    assert check_disk(config(save_freq=-1), tmp_path, str(small)) == ""
    assert "not known" in check_disk(config(), tmp_path, str(tmp_path))


@pytest.mark.parametrize(
    ("every", "total", "step", "number"),
    [(10, 40, 0, 4), (10, 45, 0, 5), (10, 40, 30, 1), (10, 45, 40, 1), (0, 9, 0, 0)],
)
def test_the_last_step_is_saved_too(every: int, total: int, step: int, number: int) -> None:
    assert saves_left(config(save_freq=every, total_training_steps=total), step) == number
