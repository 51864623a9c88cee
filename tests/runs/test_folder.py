"""Which folder a command means, and that nothing in it is lost."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from trm_agent import train
from trm_agent.runs import folder as folders


def config(tmp_path: Path, directory: str | None = None, lr: float = 1.0) -> dict[str, Any]:
    return {"run": {"root": str(tmp_path), "name": "run", "dir": directory}, "optim": {"lr": lr}}


def release(folder: folders.RunFolder) -> None:
    """What the kernel does when the process that holds the lock is killed."""
    assert folder._lock is not None
    folder._lock.close()


def test_runs_are_numbered_and_a_finished_one_is_left_alone(tmp_path: Path) -> None:
    first = folders.open_run_folder(config(tmp_path))
    (first.path / folders.SUMMARY_FILE).write_text("{}")
    release(first)
    second = folders.open_run_folder(config(tmp_path))
    assert (first.path.name, second.path.name, second.state) == ("run-001", "run-002", "new")


def test_the_same_command_resumes_an_unfinished_run(tmp_path: Path) -> None:
    first = folders.open_run_folder(config(tmp_path))
    save_checkpoints(first.path, [10, 20], logged=20)
    release(first)
    again = folders.open_run_folder(config(tmp_path))
    assert (again.path, again.state, again.step) == (first.path, "resumed", 20)


def save_checkpoints(path: Path, steps: list[int], logged: int) -> None:
    for step in steps:
        (folders.checkpoint_folder(path, step) / "actor").mkdir(parents=True)
    (path / "checkpoints/latest_checkpointed_iteration.txt").write_text(str(steps[-1]))
    rows = "".join(json.dumps({"step": step}) + "\n" for step in range(logged + 1))
    (path / folders.METRICS_FILE).write_text(rows)


def test_a_checkpoint_without_its_row_of_metrics_is_not_resumed_from(tmp_path: Path) -> None:
    save_checkpoints(tmp_path, [10, 20], logged=19)
    folders.checkpoint_folder(tmp_path, 15).mkdir()  # its actor has made room for newer ones
    assert folders.checkpoint_step(tmp_path) == 10
    (tmp_path / folders.METRICS_FILE).unlink()
    assert folders.checkpoint_step(tmp_path) == 0


def test_a_kill_while_the_last_step_is_written_loses_no_checkpoint_that_has_its_row(tmp_path: Path) -> None:
    first = folders.open_run_folder(config(tmp_path))
    save_checkpoints(first.path, [10, 20, 30], logged=20)
    release(first)
    # opened for writing, and no more
    (first.path / "checkpoints/latest_checkpointed_iteration.txt").write_text("")
    assert folders.last_saved(first.path) == 30
    again = folders.open_run_folder(config(tmp_path))
    assert (again.path, again.state, again.step) == (first.path, "resumed", 20)
    (tmp_path / "new/checkpoints").mkdir(parents=True)
    (tmp_path / "new/checkpoints/latest_checkpointed_iteration.txt").write_text("")
    assert folders.last_saved(tmp_path / "new") == 0


def lake(tmp_path: Path, name: str, game: str = "FrozenLake-v1", lr: float = 1.0) -> dict[str, Any]:
    """The configuration of a run of a game, under a name."""
    named = {"trainer": {"experiment_name": name}, "env": {"id": "trm/Gym-v0", "kwargs": {"env_id": game}}}
    made = config(tmp_path, lr=lr)
    return {**made, **named, "run": {**made["run"], "name": f"{name}-seed0", "experiment": "math_nano"}}


def test_a_run_under_the_name_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    old = lake(tmp_path, "math_nano")
    del old["run"]["experiment"]
    first = folders.open_run_folder(old)
    save_checkpoints(first.path, [10, 20], logged=20)
    release(first)
    release(folders.open_run_folder(lake(tmp_path, "math_nano", game="Blackjack-v1")))
    again = folders.open_run_folder(lake(tmp_path, "frozen_lake"))
    assert (again.path, again.state, again.step, again.notes) == (first.path, "resumed", 20, ())
    release(again)
    # another one is named with what differs; that of another game is not
    other = folders.open_run_folder(lake(tmp_path, "frozen_lake", lr=2.0))
    assert (other.path.name, other.state) == ("frozen_lake-seed0-001", "new")
    (note,) = other.notes
    # --extend would refuse it
    assert note.endswith("; its own command resumes it")
    assert note.startswith(
        f"{first.path} is unfinished at step 20 of None and differs in optim.lr: 1.0 -> 2.0; its own"
    )
    release(other)
    # of two, the one of today's name
    assert folders.open_run_folder(lake(tmp_path, "frozen_lake", lr=2.0)).path == other.path


def test_another_configuration_gets_another_folder(tmp_path: Path) -> None:
    release(folders.open_run_folder(config(tmp_path)))
    assert folders.open_run_folder(config(tmp_path, lr=2.0)).path.name == "run-002"


def test_a_run_in_progress_is_not_joined(tmp_path: Path) -> None:
    running = folders.open_run_folder(config(tmp_path))
    other = folders.open_run_folder(config(tmp_path))
    assert other.path != running.path
    with pytest.raises(ValueError, match="another process is training"):
        folders.open_run_folder(config(tmp_path, directory=str(running.path)))


def test_an_occupied_folder_with_another_configuration_is_refused_untouched(tmp_path: Path) -> None:
    given = tmp_path / "mine"
    release(folders.open_run_folder(config(tmp_path, directory=str(given))))
    before = {path.name: path.read_bytes() for path in given.iterdir()}
    with pytest.raises(ValueError, match=r"run.dir: got .*another configuration \(optim.lr: 1.0 -> 2.0\)"):
        folders.open_run_folder(config(tmp_path, directory=str(given), lr=2.0))
    assert {path.name: path.read_bytes() for path in given.iterdir()} == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"or a run of ours; .*nothing was written"):
        folders.open_run_folder(config(tmp_path, directory=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_refused_new_run_leaves_nothing(tmp_path: Path) -> None:
    folder = folders.open_run_folder(config(tmp_path))
    folders.discard(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("directory", [None, "run"])
def test_a_place_that_cannot_be_written_is_bad_input(
    directory: str | None, tmp_path: Path, capsys, monkeypatch
) -> None:
    (tmp_path / "file").touch()
    root = str(tmp_path / "file")
    monkeypatch.setattr(train, "composed", lambda *_: OmegaConf.create(config(Path(root), directory and f"{root}/run")))
    monkeypatch.setattr(train, "_refuse_or_pin", lambda _: "")
    assert train.main(["experiment=math_nano"]) == 2
    field = "run.dir" if directory else "run.root"
    assert capsys.readouterr().err.startswith(f"error: {field}: got '{root}")
