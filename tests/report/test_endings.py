"""The table of endings: what part of the steps it shows, and which of its changes are more than chance."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from trm_agent.report.endings import CHANCE, WHOLE, failure_tables
from trm_agent.report.sources import Source


def metrics(step, total, **success):
    found = {"step": step, "env/num_episodes": total}
    return found | {f"env/success/{horizon}": rate for horizon, rate in success.items()}


def table(rows, recorded, files=()):
    """Build the table of (step, horizon, solved, number) records, each episode of its own task."""
    index = {"run": [], "step": [], "horizon": [], "category": []}
    for step, horizon, num_solved, num in recorded:
        for number in range(num):
            entry = (0, step, horizon, "solved" if number < num_solved else "wrong answer")
            for name, value in zip(index, entry, strict=True):
                index[name].append(value)
    (found,) = failure_tables(index, [Source(Path("a"), "a", "run", {}, metrics=rows, episode_files=list(files))])
    return found


def dump(folder, version, step=1):
    file = folder / f"step_{step:06d}.update_000.rank_000.parquet"
    header = {"format": "trm-agent rollouts", "version": version, "settings": {}}
    schema = pyarrow.schema([("step", pyarrow.int64())], metadata={"trm": json.dumps(header)})
    pyarrow.parquet.write_table(schema.empty_table(), file)
    return file


def test_a_table_says_that_tasks_are_trained_on_and_which_part_of_the_steps_it_shows():
    rows = [metrics(1, 128, h2=0.5, h6=0.2), metrics(9, 40, h2=0.75)]
    found = table(rows, [(1, 2, 32, 64), (9, 2, 30, 40)])
    assert found["title"] == "How training episodes ended"
    told = "Episodes on training tasks: 64 of 128 episodes of step 1, none of horizon 6; all 40 of step 9."
    assert found["about"].startswith(told)
    assert found["columns"][1:] == ["horizon 2, step 1", "horizon 2, step 9", "horizon 6, step 1", "horizon 6, step 9"]
    # the whole step's success stands beside the records', also where none is recorded
    assert [cells[0] for cells in found["rows"]] == ["solved", WHOLE, "wrong answer"]
    assert found["rows"][1][1:] == ["50 %", "75 %", "20 %", "-"]
    assert found["rows"][0][1] == "50 % (32 of 64)"


def test_records_unlike_the_step_have_no_shares():
    alike = table([metrics(1, 128, h2=0.5)], [(1, 2, 36, 64)])
    assert "left out" not in alike["about"]
    assert alike["rows"][0][1] == "56 % (36 of 64)"
    unlike = table([metrics(1, 128, h2=0.5)], [(1, 2, 56, 64)])
    assert "differs from the whole step's by more than chance" in unlike["about"]
    assert [cells[1] for cells in unlike["rows"]] == ["56", "50 %", "8"]


@pytest.mark.parametrize(("version", "num", "left_out"), [(2, 64, True), (2, 128, False), (3, 64, False)])
def test_an_older_dump_holds_the_shortest_episodes_unless_it_holds_all(tmp_path, version, num, left_out):
    found = table([metrics(1, 128, h2=0.5)], [(1, 2, num // 2, num)], [dump(tmp_path, version)])
    assert ("recorded its shortest episodes; these shares are not the step's" in found["about"]) == left_out
    assert found["rows"][0][1] == (str(num // 2) if left_out else f"50 % ({num // 2} of {num})")


def test_a_first_record_after_the_first_step_is_told():
    told = "The first recorded step is 10: what changed before it is not here."
    assert told in table([], [(10, 2, 1, 2), (40, 2, 1, 2)])["about"]
    assert "first recorded step" not in table([], [(1, 2, 1, 2), (40, 2, 1, 2)])["about"]


def test_few_episodes_are_counts_and_changes_within_their_intervals_are_chance():
    solved, wrong = table([], [(1, 2, 16, 19), (9, 2, 15, 17)])["rows"]
    assert solved[1:] == ["16 of 19", f"15 of 17, {CHANCE}"]
    assert wrong[2] == f"2 of 17, {CHANCE}"
    # Wilson: 10 of 40 is at most 40.2 %, 26 of 40 at least 49.5 %
    found = table([], [(1, 2, 10, 40), (9, 2, 26, 40)])
    assert found["rows"][0][1:] == ["25 % (10 of 40)", "65 % (26 of 40)"]
    assert CHANCE not in found["about"].lower()
    same = table([], [(1, 2, 10, 40), (9, 2, 10, 40)])
    assert same["rows"][0][2] == "25 % (10 of 40)"


@pytest.mark.parametrize("grouped", [1, 9])
def test_episodes_of_one_task_count_once_for_chance(grouped):
    groups = [f"0 {step} {number // 20}" if step == grouped else None for step in (1, 9) for number in range(40)]
    endings = ["solved"] * 10 + ["wrong answer"] * 30 + ["solved"] * 26 + ["wrong answer"] * 14
    index = {"run": [0] * 80, "step": [1] * 40 + [9] * 40, "horizon": [2] * 80, "category": endings, "group": groups}
    (found,) = failure_tables(index, [Source(Path("a"), "a", "run", {})])
    assert found["rows"][0][2] == f"65 % (26 of 40), {CHANCE}"


def test_horizons_that_only_validation_has_point_to_an_evaluation():
    validation = {"step": 0, "env/val_success/h2": 0.5, "env/val_success/h8": 0.1}
    told = "Horizon 8 is in validation alone: for how its episodes end, trm eval RUN and trm report RUN EVAL."
    assert told in table([validation, metrics(1, 4, h2=0.5)], [(1, 2, 2, 4)])["about"]
    assert "in validation alone" not in table([metrics(1, 4, h2=0.5)], [(1, 2, 2, 4)])["about"]


def test_odd_metrics_spoil_no_table():
    rows = [{"step": [1]}, metrics(1, "x", h2=float("nan")), {"step": 1, "env/num_episodes": 1, "env/success/h2": 7}]
    found = table(rows, [(1, 2, 1, 2)])
    assert found["rows"] == [["solved", "1 of 2"], ["wrong answer", "1 of 2"]]
    assert "tasks: 2 of step 1." in found["about"]
