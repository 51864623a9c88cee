"""What a person sees, from rows as a run writes them."""

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from trm_agent.runs import results
from trm_agent.runs.folder import METRICS_FILE, STARTUP_FILE
from trm_agent.runs.rates import newcombe, wilson
from trm_agent.runs.screen import EQUAL_GROUPS, VALIDATION_FAILURES, Screen, duration, step_line, step_warnings
from trm_agent.runs.sessions import begin_session, end_session, session_seconds
from trm_agent.runs.success_table import nothing_learnt, table


def step_row(step: int, **more: Any) -> dict[str, Any]:
    row = {"step": step, "time": 0.0, "timing_s/step": 3.0, "env/success": 0.5, "run/tokens_per_s": 800.4}
    return {**row, "trm/acceptance": 0.99, "trm/token_kl_mean_k3": 1.2e-5, **more}


def rejecting(step: int) -> list[dict[str, Any]]:
    shares = {"trm/acceptance": 0.9, "trm/rejected_by_max": 0.1, "trm/rejected_by_avg": 0.05}
    return [step_row(step, **shares)]


def validation(step: int, short: float, long: float, **more: Any) -> dict[str, Any]:
    rates = {"env/val_success/h8": long, "env/val_success/h4": short}
    return {"step": step, "time": 0.0, VALIDATION_FAILURES: 0.0, **rates, **more}


NOTHING_PLAYED = {"step": 1, "time": 0.0, VALIDATION_FAILURES: 8.0, f"{VALIDATION_FAILURES}/env_error": 8.0}


def test_a_step_is_one_line_with_an_eta() -> None:
    # 50 steps are left at the median of 3 s
    line = step_line(step_row(10), 60, [9.0, 3.0, 3.0])
    assert line == "step 10/60  success  50.0 %  acceptance  99.0 %  KL 1.2e-05  800 tok/s  3.0 s  ETA 2 min 30 s"


def test_the_line_tells_who_waited_and_how_long_the_weights_took_as_far_as_the_row_does() -> None:
    waited = {"run/trainer_idle": 0.6, "run/servers_idle": 0.451, "run/queue_idle": 0.9}
    line = step_line(step_row(10, **waited, **{"timing_s/update_weights": 0.071}), 60, [3.0])
    assert "  3.0 s (idle: trainer 60 %, servers 45 %, queue 90 %; weights 0.07 s)  ETA" in line
    foreign = step_row(10, **{"run/trainer_idle": 0.6, "run/servers_idle": None})
    assert "  3.0 s (idle: trainer 60 %)  ETA" in step_line(foreign, 60, [3.0])


def test_a_filtered_step_says_how_many_groups_had_signal_and_the_success_of_all_that_were_played() -> None:
    # 16 + 11 ended; an asynchronous run draws none in its last step
    counts = {"env/groups/drawn": 0.0, "env/groups/with_signal": 16.0, "env/groups/without_signal": 11.0}
    line = step_line(step_row(10, **counts, **{"env/played_success": 0.25}), 60, [3.0])
    assert line.startswith("step 10/60  success  25.0 %  groups 16 of 27  acceptance")


WITHOUT_MASK = {"step": 1, "time": 0.0, "timing_s/step": 3.0, "env/success": 0.5, "run/tokens_per_s": 800.4}
ALL_REJECTED = {"trm/acceptance": 0.0, "trm/rejected_by_max": 1.0, "trm/rejected_by_avg": 0.0}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        # no sequence is finite, so that there is no mean; one that overflows is written as null
        ({**WITHOUT_MASK, **ALL_REJECTED}, "(rejected 100 % by max)  KL -  800 tok/s"),
        ({**WITHOUT_MASK, **ALL_REJECTED, "trm/token_kl_mean_k3": None}, "  KL -  800 tok/s"),
        ({**WITHOUT_MASK, "actor/ppo_kl": None}, "  50.0 %  KL -  800 tok/s"),
        # no sequence had a token of the model's
        ({**WITHOUT_MASK, "trm/num_sequences": 0.0}, "  50.0 %  800 tok/s"),
        ({**WITHOUT_MASK, "env/success": None, "run/tokens_per_s": None}, "success    -    nan tok/s"),
    ],
)
def test_a_step_without_a_number_has_its_line_and_its_summary(row: dict[str, Any], told: str) -> None:
    assert told in step_line(row, 9, [3.0])
    assert isinstance(step_warnings(row), list)
    for rows in ([row], [row, *rejecting(2)], [*rejecting(1), {**row, "step": 2}]):
        assert table(results.summarise(rows, seed=0, trained_horizons=[4], wall_s=1.0))


def test_warnings_that_matter_are_shown() -> None:
    row = step_row(1, **{"env/infrastructure_failures": 3.0, "env/infrastructure_failures/env_error": 3.0})
    assert step_warnings(row) == ["3 episodes could not be played (3 env_error); they are out of the loss, see log.txt"]
    (broken,) = step_warnings({"env/scorer_errors": 2.0, "trm/acceptance": 1.0})
    assert broken == "on 2 episodes the environment raised, which scores 0; see log.txt"
    late = {"env/infrastructure_failures": 2.0, "env/infrastructure_failures/generator_timeout": 2.0}
    assert (
        "(2 generator_timeout)" in step_warnings({**late, "env/infrastructure_failures/generator_timeout/le_8": 2.0})[0]
    )
    rejected = step_row(1, **{"trm/acceptance": 0.6, "trm/rejected_by_max": 0.4, "trm/rejected_by_avg": 0.0})
    assert step_warnings(rejected) == ["acceptance 60.0 % is below the 70 % that the paper asks for"]
    assert "acceptance  60.0 % (rejected 40 % by max)  KL" in step_line(rejected, 9, [1.0])
    assert step_warnings(step_row(1)) == step_warnings(step_row(1, **{EQUAL_GROUPS: 0.9})) == []
    (equal,) = step_warnings(step_row(1, **{EQUAL_GROUPS: 1.0}))
    assert equal == "no task's episodes differ in reward: the policy loss has no gradient"


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ([1.0, 1.0, 1.0], "no step had a task"),
        ([1.0, 0.9, 1.0], "only 1 of 3 steps had a task"),
        ([1.0, 0.5], None),
        ([0.0, 0.9], None),
        # a run from before the metric, and an estimator without groups
        ([None, None], None),
        ([], None),
    ],
)
def test_a_run_says_in_the_end_that_most_steps_had_nothing_to_learn_from(shares: list, told: str | None) -> None:
    rows = [validation(0, 0.0, 0.0)]
    rows += [step_row(step, **({} if share is None else {EQUAL_GROUPS: share})) for step, share in enumerate(shares, 1)]
    lines = nothing_learnt(rows)
    assert [line.startswith(str(told)) for line in lines[1:]] == [True] * (told is not None)
    # only a nano model has a warm start to lengthen
    assert "env.nano" not in "".join(lines)
    assert ("env.nano.max_steps" in "".join(nothing_learnt(rows, is_nano=True))) is (told is not None)


def test_the_screen_follows_the_files_and_skips_a_half_written_line(tmp_path: Path) -> None:
    out = io.StringIO()
    (tmp_path / METRICS_FILE).write_text(json.dumps(step_row(1)) + "\n")  # of an earlier command
    screen = Screen(tmp_path, out, 2, started=0.0)
    screen.start()
    with (tmp_path / STARTUP_FILE).open("w") as file:
        file.write('{"phase": "driver", "time": 12.0}\n')
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write(json.dumps(step_row(2, **{"env/val_success/h4": 0.75, VALIDATION_FAILURES: 0.0})) + "\n")
        file.write(json.dumps(NOTHING_PLAYED) + "\n" + '{"step": 3')
    time.sleep(0.5)
    screen.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "     12 s  driver ready"
    assert lines[1].startswith("step 2/2")
    assert lines[2:] == [
        "validation after step 2: horizon 4: 75.0 %",
        "validation after step 1: no figures",
        "  warning: 8 episodes could not be played (8 env_error); no rate counts them, see log.txt",
    ]


def test_the_summary_has_success_before_and_after_by_horizon() -> None:
    rows = [validation(0, 0.3, 0.1), *rejecting(1), {**rejecting(2)[0], **validation(2, 0.8, 0.4)}]
    summary = results.summarise(rows, seed=3, trained_horizons=[4, 4], wall_s=61.23)
    assert summary == {
        "success": {"before": {"4": 0.3, "8": 0.1}, "after": {"4": 0.8, "8": 0.4}},
        "val_episodes": {"before": {}, "after": {}},
        "trained_horizons": [4],
        "trust_region": {"acceptance": 0.9, "rejected_by_max": 0.1, "rejected_by_avg": 0.05},
        "steps": 2,
        "wall_s": 61.2,
        "seed": 3,
        "lacks": [],
    }
    lines = table(summary).splitlines()
    assert lines[2].split() == ["horizon", "4", "(trained)", "30.0", "%", "80.0", "%", "+50.0"]
    assert lines[3].split() == ["horizon", "8", "10.0", "%", "40.0", "%", "+30.0"]
    assert lines[5].startswith("trust region: 90.0 % of the sequences accepted; rejected by max 10.0 %, by avg")


def test_the_table_has_intervals_where_the_numbers_of_episodes_are_known() -> None:
    few, many = {"env/val_num_episodes/h4": 4.0, "env/val_num_episodes/h8": 128.0}, {"env/val_num_episodes/h8": 64.0}
    rows = [validation(0, 1.0, 0.25, **few), *rejecting(1), {**rejecting(2)[0], **validation(2, 0.25, 0.5, **many)}]
    summary = results.summarise(rows, seed=0, trained_horizons=[4], wall_s=1.0)
    assert summary["val_episodes"] == {"before": {"4": 4, "8": 128}, "after": {"8": 64}}
    shown = table(summary).splitlines()
    low, high = wilson(0.25, 128)
    assert f"25.0 % [{100 * low:.1f}, {100 * high:.1f}]" in shown[3]
    low, high = newcombe(0.25, 128, 0.5, 64)
    assert f"+25.0 [{100 * low:+.1f}, {100 * high:+.1f}]" in shown[3]
    assert 0 < low < 0.25 < high
    # the later validation does not say how many episodes of horizon 4 it had
    assert shown[2].split()[-3:] == ["25.0", "%", "-75.0"]
    assert shown[4] == "95 % intervals over 4 to 128 tasks per horizon, unpaired (trm report pairs them by task)"
    assert shown[5].startswith("fewer than 20 tasks")
    assert "over 1 to 32 tasks" in table({**summary, "val_samples": 4})
    assert "intervals over 4 to 128 episodes of one task\n" in f"{table({**summary, 'held_out': False})}\n"


def test_a_change_of_few_episodes_may_be_none() -> None:
    # 3 of 4 to 1 of 4: "-50.0" says nothing
    low, high = newcombe(0.75, 4, 0.25, 4)
    assert -1 <= low < -0.5 < 0 < high


def test_a_horizon_whose_episodes_all_failed_keeps_its_line() -> None:
    rows = [validation(0, 0.25, 0.125), *rejecting(1), {**NOTHING_PLAYED, "env/val_success/h8": 0.5}]
    lines = table(results.summarise(rows, seed=0, trained_horizons=[4], wall_s=1.0)).splitlines()
    assert lines[2].split() == ["horizon", "4", "(trained)", "25.0", "%", "-", "-"]
    assert lines[3].split() == ["horizon", "8", "12.5", "%", "50.0", "%", "+37.5"]


def test_a_validation_whose_episodes_all_failed_ends_no_run() -> None:
    rows = [validation(0, 0.25, 0.125), *rejecting(1), NOTHING_PLAYED]
    summary = results.summarise(rows, seed=0, trained_horizons=[4], wall_s=1.0)
    assert summary["success"] == {"before": {"4": 0.25, "8": 0.125}, "after": {}}
    assert table(summary).splitlines()[3].split() == ["horizon", "8", "12.5", "%", "-", "-"]
    assert summary["lacks"] == [
        "success.after: its validation could play no episode (env/val_infrastructure_failures in metrics.jsonl)"
    ]
    assert summary["lacks"][0] in table(summary).splitlines()


def test_a_run_without_validations_ends_with_a_summary_all_the_same() -> None:
    summary = results.summarise([validation(0, 0.3, 0.1), step_row(1)], seed=0, trained_horizons=[4], wall_s=1.0)
    assert summary["success"] == {"before": {"4": 0.3, "8": 0.1}, "after": {}}
    assert table(summary).splitlines()[2].split() == ["horizon", "4", "(trained)", "30.0", "%", "-", "-"]
    summary = results.summarise([step_row(1)], seed=0, trained_horizons=[4], wall_s=1.0)
    assert summary["success"] == {"before": {}, "after": {}}
    assert summary["lacks"] == [
        "success.before: no validation before the first step (trainer.val_before_train)",
        "success.after: no validation after the last step (trainer.test_freq)",
    ]
    assert table(summary).splitlines()[2:4] == summary["lacks"]


def test_the_seconds_of_a_run_are_those_of_all_its_sessions(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(step_row(1)) + "\n")
    begin_session(tmp_path, 1000.0)
    # killed: its last line in the log is its last sign of life
    (tmp_path / "log.txt").write_text("x")
    os.utime(tmp_path / "log.txt", (1030.0, 1030.0))
    begin_session(tmp_path, 5000.0)
    # 30 s of the first session, 7 s of the second, and not the hour between them
    assert session_seconds(tmp_path) == [30.0]
    end_session(tmp_path, 5007.0)
    assert session_seconds(tmp_path) == [30.0, 7.0]


def test_a_run_of_an_older_version_has_a_first_session_too(tmp_path: Path) -> None:
    for name, seconds in (("git.json", 100.0), ("log.txt", 160.0)):
        (tmp_path / name).write_text("{}")
        os.utime(tmp_path / name, (seconds, seconds))
    begin_session(tmp_path, 900.0)
    end_session(tmp_path, 905.0)
    assert session_seconds(tmp_path) == [60.0, 5.0]


def test_a_game_with_one_task_is_called_not_held_out(tmp_path: Path) -> None:
    assert results.is_held_out(tmp_path)
    for one_task in (False, True):
        kwargs = {"env_id": "FrozenLake-v1", "one_task": one_task}
        config = {"run": {}, "env": {"id": "trm/Gym-v0", "module": None, "kwargs": kwargs}}
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        assert results.is_held_out(tmp_path) is not one_task
    config["env"]["kwargs"]["env_id"] = "NoSuchGame-v1"
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    assert results.is_held_out(tmp_path) is None
    summary = results.summarise([validation(0, 0.25, 0.125), *rejecting(1)], seed=0, trained_horizons=[4], wall_s=1.0)
    # a summary of an older version does not tell
    assert table(summary).startswith("success               before")
    assert "not known" not in table(summary)
    assert table({**summary, "held_out": True}).startswith("held-out success      before")
    assert table({**summary, "held_out": False}).startswith("not held out: success before")
    unknown = table({**summary, "held_out": None})
    assert unknown.startswith("success               before")
    assert "whether the tasks are held out is not known" in unknown


@pytest.mark.slow
def test_curves_are_a_picture(tmp_path: Path) -> None:
    results.draw_curves([validation(0, 0.3, 0.1), step_row(1)], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_panel_without_a_line_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    told: list[str] = []
    text = Axes.text
    monkeypatch.setattr(Axes, "text", lambda axes, x, y, s, **more: told.append(s) or text(axes, x, y, s, **more))
    results.draw_curves([validation(0, 0.3, 0.1)], tmp_path / "curves.png")
    assert told == ["no sequence was masked by this loss", "not measured by this loss"]


@pytest.mark.parametrize(("seconds", "text"), [(9.4, "9 s"), (75.2, "1 min 15 s"), (3700, "1 h 1 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
