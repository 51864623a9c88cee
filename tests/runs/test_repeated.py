"""What an earlier process left of the steps that a resumed run does again."""

import json
from pathlib import Path

import pytest

from tests.runs.test_folder import config, release, save_checkpoints
from trm_agent.runs import folder as folders
from trm_agent.runs.endings.keeping import Keeping, set_aside, tidy
from trm_agent.runs.extend import go_on
from trm_agent.runs.repeated import forget_after


def names(run: Path) -> set[str]:
    return {path.name for path in (run / folders.CHECKPOINTS).iterdir() if path.is_dir()}


def killed(tmp_path: Path, steps: list[int], logged: int) -> folders.RunFolder:
    """An unfinished run with these checkpoints, and rows up to a step, as the next command opens it."""
    first = folders.open_run_folder(config(tmp_path))
    save_checkpoints(first.path, steps, logged)
    release(first)
    return folders.open_run_folder(config(tmp_path))


def test_a_resumed_run_forgets_the_steps_that_it_does_again(tmp_path: Path) -> None:
    rows = [{"step": step, "value": step / 10} for step in range(8)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / folders.METRICS_FILE).write_text(text + '{"step": 8, "val')  # cut by a kill
    assert folders.read_metrics(tmp_path) == rows
    forget_after(tmp_path, 5)
    assert folders.read_metrics(tmp_path) == rows[:6]
    forget_after(tmp_path, 0)
    assert folders.read_metrics(tmp_path) == []


def test_no_checkpoint_of_a_killed_process_stands_beside_rows_of_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # killed between the checkpoint of step 20 and its row
    again = killed(tmp_path, [10, 20], logged=19)
    run = again.path
    assert (again.state, again.step) == ("resumed", 10)
    assert again.notes == ("does the steps after 10 again; a checkpoint of theirs is set aside: 20",)
    assert names(run) == {"global_step_10", "global_step_20"}, "nothing moves before nothing refuses the run"
    go_on(again, "1")
    assert names(run) == {"global_step_10", "removed_step_20"}
    assert (folders.saved_steps(run), folders.last_saved(run)) == ([10], 10)
    assert "the checkpoint of step 20, which is done again, is " in capsys.readouterr().out
    # with another trainer.save_freq it comes past step 20 without saving, and is killed
    with (run / folders.METRICS_FILE).open("a") as file:
        file.writelines(json.dumps({"step": step}) + "\n" for step in range(11, 24))
    assert folders.checkpoint_step(run) == 10
    assert tidy(run, Keeping(2), before=25) == []
    assert names(run) == {"global_step_10"}


def test_a_run_that_begins_anew_keeps_no_checkpoint(tmp_path: Path) -> None:
    again = killed(tmp_path, [10], logged=9)
    assert again.step == 0
    go_on(again, "1")
    assert names(again.path) == {"removed_step_10"}
    assert (folders.saved_steps(again.path), folders.last_saved(again.path)) == ([], 0)


def test_a_run_with_nothing_to_do_again_loses_nothing(tmp_path: Path) -> None:
    again = killed(tmp_path, [10, 20], logged=20)
    assert (again.step, again.notes) == (20, ())
    go_on(again, "1")
    assert (names(again.path), folders.last_saved(again.path)) == ({"global_step_10", "global_step_20"}, 20)


def test_a_checkpoint_of_the_same_step_may_have_been_set_aside_before(tmp_path: Path) -> None:
    save_checkpoints(tmp_path, [10, 20], logged=19)
    aside = tmp_path / folders.CHECKPOINTS / "removed_step_20"
    aside.mkdir()
    (aside / "older").write_text("x")
    assert set_aside(tmp_path, after=10) == {20: aside}
    assert (names(tmp_path), (aside / "older").exists()) == ({"global_step_10", "removed_step_20"}, False)
