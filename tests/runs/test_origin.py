"""Where a run begins: verl's resume_path, weights alone, and an unfinished run that the command does not mean."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from trm_agent.evaluate.checkpoints.initial import initial_checkpoint
from trm_agent.runs import folder as folders
from trm_agent.runs.history import history
from trm_agent.runs.origin import (
    begins,
    check_modes,
    check_origin,
    check_shape,
    check_tokens,
    needs_first_weights,
    start_step,
)
from trm_agent.runs.results import summarise


def config(**trainer: Any) -> Any:
    fields = {"resume_mode": "auto", "resume_from_path": None, "total_training_steps": 42, **trainer}
    devices = {"n_gpus_per_node": 1, "nnodes": 1}
    actor = {"use_kl_loss": False, "checkpoint": {"load_contents": ["model", "optimizer", "extra"]}}
    return OmegaConf.create(
        {
            "run": {"init_from": None},
            "trainer": {**devices, **fields},
            "algorithm": {"use_kl_in_reward": False},
            "actor_rollout_ref": {"actor": actor, "model": {}},
        }
    )


def check(given: Any) -> None:
    check_modes(given)
    check_origin(given)


def checkpoint(root: Path, step: int = 40, devices: int = 1) -> Path:
    """A checkpoint's files, as small as torch.save makes them."""
    actor = root / f"global_step_{step}" / "actor"
    actor.mkdir(parents=True)
    for part in ("model", "optim", "extra_state"):
        for rank in range(devices):
            torch.save({"part": torch.ones(1)}, actor / f"{part}_world_size_{devices}_rank_{rank}.pt")
    return actor.parent


def test_a_checkpoint_is_gone_on_from_after_its_step(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    given = config(resume_mode="resume_path", resume_from_path=str(path))
    check(given)
    assert start_step(given) == 40
    assert begins(given) == f"new run, goes on after step 40 of {path}"
    for mode in ("auto", "disable"):
        check(config(resume_mode=mode))
        assert (start_step(config(resume_mode=mode)), begins(config(resume_mode=mode))) == (0, "new run")


class Program:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("false",)


def test_a_checkpoint_that_holds_a_program_is_refused_and_not_read(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    for name in ("actor/extra_state_world_size_1_rank_0.pt", "data.pt"):
        before = (path / name).read_bytes() if (path / name).exists() else b""
        torch.save({"rng": Program()}, path / name)
        with pytest.raises(
            ValueError, match=rf"^trainer.resume_from_path: .*{Path(name).name}: holds more than tensors"
        ):
            check_origin(config(resume_mode="resume_path", resume_from_path=str(path)))
        (path / name).write_bytes(before) if before else (path / name).unlink()
    (path / "transfer_queue").mkdir()
    with pytest.raises(ValueError, match="prompts in flight are stored as pickles"):
        check_origin(config(resume_mode="resume_path", resume_from_path=str(path)))


@pytest.mark.parametrize(
    ("trainer", "word"),
    [
        ({"resume_mode": "resume"}, "trainer.resume_mode: got 'resume'"),
        ({"resume_mode": "resume_path"}, "trainer.resume_from_path: got null; allowed: a folder global_step_N"),
        ({"resume_mode": "resume_path", "resume_from_path": "{root}"}, "which holds global_step_40"),
        ({"resume_mode": "resume_path", "resume_from_path": "{root}/global_step_41"}, "which is not a folder here"),
        ({"resume_from_path": "{root}/global_step_40"}, "which is read with trainer.resume_mode=resume_path alone"),
        (
            {"resume_mode": "resume_path", "resume_from_path": "{root}/global_step_40", "total_training_steps": 40},
            "trainer.total_training_steps: got 40, while the checkpoint is of step 40",
        ),
        (
            {"resume_mode": "resume_path", "resume_from_path": "{root}/global_step_40", "nnodes": 2},
            r"lacks actor/model_world_size_2_rank_0.pt and has model_world_size_1_rank_0.pt; .*run.init_from=RUN@STEP",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(trainer: dict[str, Any], word: str, tmp_path: Path) -> None:
    checkpoint(tmp_path)
    filled = {name: value.format(root=tmp_path) if isinstance(value, str) else value for name, value in trainer.items()}
    with pytest.raises(ValueError, match=word):
        check(config(**filled))


def test_only_the_parts_that_are_loaded_must_be_there(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    (path / "actor/optim_world_size_1_rank_0.pt").unlink()
    given = config(resume_mode="resume_path", resume_from_path=str(path))
    with pytest.raises(ValueError, match=r"which lacks actor/optim_world_size_1_rank_0.pt"):
        check_origin(given)
    given.actor_rollout_ref.actor.checkpoint.load_contents = ["model", "extra"]
    check_origin(given)


@pytest.mark.parametrize(
    ("field", "needs"),
    [
        (None, False),
        ("actor_rollout_ref.actor.use_kl_loss", True),
        ("algorithm.use_kl_in_reward", True),
        ("actor_rollout_ref.model.lora_rank", True),
    ],
)
def test_a_resumed_run_loads_its_first_weights_where_they_stay_the_reference(field: str | None, needs: bool) -> None:
    given = config()
    if field is not None:
        OmegaConf.update(given, field, True, force_add=True)
    assert not needs_first_weights(given, 3)
    given.run.init_from = "runs/a@1"
    assert needs_first_weights(given, 0)
    assert needs_first_weights(given, 3) is needs


def test_weights_and_a_whole_checkpoint_exclude_each_other(tmp_path: Path) -> None:
    given = config(resume_mode="resume_path", resume_from_path=str(checkpoint(tmp_path)))
    given.run.init_from = "runs/a@1"
    with pytest.raises(ValueError, match=r"run.init_from: got 'runs/a@1', with trainer.resume_mode=resume_path"):
        check(given)


def test_a_model_of_another_shape_is_refused_with_the_fields_that_differ() -> None:
    ours = {"hidden_size": 192, "vocab_size": 563, "head_dim": 32, "rope_theta": 1.0}
    check_shape("run.init_from", "runs/a@1", {**ours, "rope_theta": 2.0}, ours)
    with pytest.raises(ValueError, match=r"another shape \(vocab_size 564 there, 563 here; hidden_size 64 there, 192 "):
        check_shape("run.init_from", "runs/a@1", {**ours, "hidden_size": 64, "vocab_size": 564}, ours)


def test_weights_that_would_read_other_tokens_are_refused() -> None:
    def tokenizer(words: dict[str, int], template: str) -> Any:
        return SimpleNamespace(get_vocab=lambda: words, chat_template=template)

    ours = tokenizer({"a": 0}, "x")
    check_tokens("run.init_from", "m", tokenizer({"a": 0}, "x"), ours)
    with pytest.raises(ValueError, match=r"another vocabulary than that of actor_rollout_ref.model.path"):
        check_tokens("run.init_from", "m", tokenizer({"a": 1}, "x"), ours)
    with pytest.raises(ValueError, match="another chat template"):
        check_tokens("run.init_from", "m", tokenizer({"a": 0}, "y"), ours)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("{run}", r"a run without a step \(steps with a checkpoint: 10\); .*name one: .*@STEP"),
        ("{run}@20", r"run.init_from: .*has no checkpoint of step 20 .*: 10"),
        (
            "{run}/none",
            "run.init_from: .*does not exist; allowed: RUN@STEP, a global_step_N folder, or a Hugging Face folder$",
        ),
        ("{run}s@10", "run.init_from: .*s does not exist; allowed: RUN@STEP"),
        ("{run}/checkpoints", "run.init_from: .*no checkpoint; it holds .*; allowed: RUN@STEP, a global_step_N folder"),
        ("nano", "run.init_from: got 'nano'; allowed: RUN@STEP"),
    ],
)
def test_weights_that_are_not_there_are_refused(source: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints/global_step_10/actor").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text("run: {}")
    with pytest.raises(ValueError, match=word):
        initial_checkpoint("run.init_from", source.format(run=tmp_path))


def run_config(root: Path, mode: str = "auto", steps: int = 30, directory: Path | None = None, **more: Any) -> Any:
    trainer = {"total_training_steps": steps, "resume_mode": mode, **more}
    return {"run": {"root": str(root), "name": "run", "dir": directory and str(directory)}, "trainer": trainer}


def unfinished(root: Path, **more: Any) -> Path:
    made = folders.open_run_folder(run_config(root, **more))
    assert made._lock is not None
    made._lock.close()
    (made.path / "checkpoints/global_step_28/actor").mkdir(parents=True)
    (made.path / "checkpoints/latest_checkpointed_iteration.txt").write_text("28")
    (made.path / "metrics.jsonl").write_text(json.dumps({"step": 28}) + "\n")
    return made.path


def test_an_unfinished_run_that_differs_is_named_with_its_step_and_the_fields(tmp_path: Path) -> None:
    path = unfinished(tmp_path, save_freq=10)
    new = folders.open_run_folder(run_config(tmp_path, save_freq=2))
    assert (new.path.name, new.state) == ("run-002", "new")
    (note,) = new.notes
    assert note.startswith(f"{path} is unfinished at step 28 of 30 and differs in trainer.save_freq: 10 -> 2; ")
    assert note.endswith("; its own command resumes it, trm train --extend changes it")
    # now the one with the higher number is in progress: it is not named, and neither is a finished one
    third = folders.open_run_folder(run_config(tmp_path, save_freq=3))
    assert [each.split()[0] for each in third.notes] == [str(path)]
    (path / "summary.json").write_text("{}")
    assert folders.open_run_folder(run_config(tmp_path, save_freq=4)).notes == ()


def test_a_damaged_run_that_differs_is_named_too(tmp_path: Path) -> None:
    path = unfinished(tmp_path, save_freq=10)
    (path / "checkpoints/latest_checkpointed_iteration.txt").write_text("many")
    (note,) = folders.open_run_folder(run_config(tmp_path, save_freq=2)).notes
    assert note.startswith(f"{path} is unfinished and damaged (")


def test_without_resuming_a_new_run_begins_and_the_default_command_resumes_it(tmp_path: Path) -> None:
    first = unfinished(tmp_path)
    second = folders.open_run_folder(run_config(tmp_path, mode="disable"))
    assert (second.path.name, second.state) == ("run-002", "new")
    assert second.notes[-1].endswith(f"trm train --extend {second.path} resumes this one")
    with pytest.raises(ValueError, match=r"trainer.resume_mode: got 'disable', with which no run is resumed"):
        folders.open_run_folder(run_config(tmp_path, mode="disable", directory=first))
    assert second._lock is not None
    second._lock.close()
    assert folders.open_run_folder(run_config(tmp_path)).path == second.path


def test_the_summary_tells_where_a_run_began(tmp_path: Path) -> None:
    stored = run_config(tmp_path, mode="resume_path", resume_from_path="a/global_step_40")
    stored["run"]["init_from"] = None
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    assert history(tmp_path) == {"start": 40, "resumed_from": "a/global_step_40"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"run": {"init_from": "b@3"}}))
    assert history(tmp_path) == {"init_from": "b@3"}
    (tmp_path / "config.yaml").unlink()
    assert history(tmp_path) == {}
    key = {"env/val_infrastructure_failures": 0}
    rows = [{"step": 40, **key, "env/val_success/h4": 0.5}, {"step": 42, **key, "env/val_success/h4": 0.75}]
    found = summarise(rows, 0, [4], 1.0, start=40)
    assert (found["success"], found["lacks"]) == ({"before": {"4": 0.5}, "after": {"4": 0.75}}, [])
