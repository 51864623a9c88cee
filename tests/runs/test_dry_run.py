"""`trm train --check`: the first prompt, limits, steps and disk, without Ray and without a folder."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from omegaconf import OmegaConf

from trm_agent import cli
from trm_agent.runs import dry_run, folder


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """The environment's variables, put back afterwards: the command sets `hardware.env_vars`."""
    with patch.dict(os.environ):
        yield


@pytest.mark.slow
def test_a_run_is_shown_and_nothing_is_started_or_written(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TRM_AGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folder, "_start", lambda *_: pytest.fail("a folder was made"))
    loaded = set(sys.modules)
    words = ["train", "--check", "experiment=math_nano", f"run.root={tmp_path / 'runs'}", "trainer.save_freq=7"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    for text in (
        "Follow the steps with the calculator",
        "--- turn of the scripted solver ---\n<tool_call>",
        "--- answer to it, ",
        "limits: max_turns 12, max_tool_calls 12, max_malformed_turns 1, max_turn_tokens 32,",
        f"run: trm/ChainMath-v0, seed 0, new run, in {tmp_path}/runs/math_nano-seed0-NNN, numbered\n",
        "\nsteps: 1 to 40, 16 tasks of 8 episodes each\nhorizons: 2 4 6 in training, 4 8 in validation\n",
        "checkpoints: every 7 steps and after the last\n",
        "free for checkpoints",
        "\nnot checked: verl's own rules, and whether an unfinished run would be resumed\n",
    ):
        assert text in shown
    assert shown.endswith("nothing was started or written\n")
    assert list(tmp_path.iterdir()) == []
    assert os.environ["VERL_PLATFORM"] == "cpu"
    assert "vllm" not in set(sys.modules) - loaded
    # what does not fit the model is refused with 2
    assert cli.main([*words, "data.max_response_length=8", "actor_rollout_ref.rollout.max_model_len=300"]) == 2
    assert "the limits let the solver play; for horizon 8 set: data.max_response_length=" in capsys.readouterr().err
    assert cli.main([*words, f"run.init_from={tmp_path}/none@3"]) == 2
    assert "run.init_from: checkpoint" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_options_that_exclude_each_other_are_refused(capsys) -> None:
    assert cli.main(["train", "--check", "--schedule", "restart"]) == 2
    assert "--schedule: got 'restart'; allowed: a choice of --extend RUN" in capsys.readouterr().err
    assert cli.main(["train", "--check", "--extend", "/no/such/run"]) == 2
    assert "--extend: got '/no/such/run', which is not there" in capsys.readouterr().err
    assert cli.main(["train", "--check", "--extend", "/"]) == 2
    assert "--extend: got '/', which holds no config.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(("steps", "told"), [(5, "every 5 steps and after the last"), (-1, "none"), (0, "none")])
def test_frequencies_are_told_in_words(steps: int, told: str) -> None:
    assert dry_run._every(steps) == told


@pytest.mark.parametrize(
    ("before", "every", "step", "told"),
    [
        (True, 20, 0, "before the first step, every 20 steps and after the last, 64 tasks"),
        (True, -1, 0, "before the first step, 64 tasks"),
        (False, 20, 0, "every 20 steps and after the last, 64 tasks"),
        (False, -1, 0, "none"),
        (False, 0, 0, "none"),
        # the row of an extended run's first validation is there already
        (True, 5, 40, "every 5 steps and after the last, 64 tasks"),
        (True, -1, 40, "none"),
    ],
)
def test_every_validation_is_told(before: bool, every: int, step: int, told: str) -> None:
    trainer = OmegaConf.create({"val_before_train": before, "test_freq": every})
    env = OmegaConf.create({"val": {"num_tasks": 64, "greedy_tasks": 0}})
    assert dry_run._validated(trainer, step, env) == told
    env.val.greedy_tasks = 8
    assert dry_run._validated(trainer, step, env) == told.replace("tasks", "tasks, 8 of them greedily as well")


@pytest.mark.parametrize(("given", "told"), [(None, "in runs/mine-seed0-NNN, numbered"), ("out/a", "in out/a")])
def test_the_folder_of_the_run_is_told(given: str | None, told: str) -> None:
    run = {"dir": given, "root": "runs", "name": "mine-seed0"}
    assert dry_run._place(OmegaConf.create({"run": run})) == told


def test_the_disk_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    for field in ("dir", "root"):
        given = OmegaConf.create({"run": {"dir": None, "root": str(tmp_path / "a" / "b")}})
        if field == "dir":
            given.run.dir, given.run.root = str(tmp_path / "c"), "/"
        assert dry_run._nearest(given) == tmp_path


@pytest.mark.parametrize(
    ("chosen", "told"),
    [(False, "in training"), (True, "in training as the curriculum chooses")],
)
def test_the_horizons_of_both_streams_are_told(chosen: bool, told: str) -> None:
    env = {"train": {"horizons": [8, 16], "curriculum": {"enable": chosen}}, "val": {"horizons": [32]}}
    assert dry_run._horizons(OmegaConf.create(env)) == f"horizons: 8 16 {told}, 32 in validation"
