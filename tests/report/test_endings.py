"""The tables of endings: what part of the steps they show, and how sure their changes are."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.report.test_why import risen
from trm_agent.report.changes import change
from trm_agent.report.endings import UNCLEAR, WHOLE, failure_tables
from trm_agent.report.sources import Source

EMPTY = {"run": [], "step": [], "horizon": [], "category": []}


def metrics(step, total, **success):
    found = {"step": step, "env/num_episodes": total}
    return found | {f"env/success/{horizon}": rate for horizon, rate in success.items()}


def tables(rows, recorded, files=()):
    """Build the tables of (step, horizon, solved, number) records, each episode of its own task."""
    index = {"run": [], "step": [], "horizon": [], "category": []}
    for step, horizon, num_solved, num in recorded:
        for number in range(num):
            entry = (0, step, horizon, "solved" if number < num_solved else "wrong answer")
            for name, value in zip(index, entry, strict=True):
                index[name].append(value)
    return failure_tables(index, [Source(Path("a"), "a", "run", {}, metrics=rows, episode_files=list(files))])


def table(rows, recorded, files=()):
    return tables(rows, recorded, files)[0]


def dump(folder, version, step=1):
    file = folder / f"step_{step:06d}.update_000.rank_000.parquet"
    header = {"format": "trm-agent rollouts", "version": version, "settings": {}}
    schema = pyarrow.schema([("step", pyarrow.int64())], metadata={"trm": json.dumps(header)})
    pyarrow.parquet.write_table(schema.empty_table(), file)
    return file


def test_the_tables_say_that_tasks_are_trained_on_and_which_part_of_the_steps_they_show():
    rows = [metrics(1, 128, h2=0.5, h6=0.2), metrics(9, 40, h2=0.75)]
    over, by_horizon = tables(rows, [(1, 2, 32, 64), (9, 2, 30, 40)])
    assert over["title"] == "How training episodes ended"
    told = "others at each step: 64 of 128 episodes of step 1, none of horizon 6; all 40 of step 9."
    assert told in over["about"]
    assert over["columns"] == ["ending", "step 1", "step 9"]
    assert over["rows"][0] == ["solved", "50 % (32 of 64)", "75 % (30 of 40)"]
    heads = ["horizon 2, step 1", "horizon 2, step 9", "horizon 6, step 1", "horizon 6, step 9"]
    assert by_horizon["title"] == "How training episodes ended, by horizon"
    assert by_horizon["columns"][1:] == heads
    # the whole step's success stands beside the records', also where none is recorded
    assert [cells[0] for cells in by_horizon["rows"]] == ["solved", WHOLE, "wrong answer"]
    assert by_horizon["rows"][1][1:] == ["50 %", "75 %", "20 %", "-"]


def test_failures_of_the_infrastructure_are_counted_over_all_steps():
    failing = [{**metrics(step, 2, h2=0.5), "env/infrastructure_failures": 1.5 * step} for step in (1, 3)]
    assert "not trained on: 6 in all steps" in table(failing, [(1, 2, 1, 2)])["about"]
    assert "not trained on: 0 in all steps" in table([], [(1, 2, 1, 2)])["about"]


def test_at_most_six_steps_are_shown_with_the_first_and_the_last():
    found = table([], [(step, 2, 1, 2) for step in (1, *range(10, 110, 10))])
    assert found["columns"] == ["ending", "step 1", "step 20", "step 40", "step 60", "step 80", "step 100"]


def test_records_unlike_the_step_have_no_shares_and_no_changes():
    alike = table([metrics(1, 128, h2=0.5)], [(1, 2, 36, 64)])
    assert "left out" not in alike["about"]
    assert alike["rows"][0][1] == "56 % (36 of 64)"
    unlike = table([metrics(1, 128, h2=0.5)], [(1, 2, 56, 64), (2, 2, 56, 64)])
    assert "differs from the whole step's by more than chance" in unlike["about"]
    assert unlike["columns"] == ["ending", "step 1", "step 2"]
    assert [cells[1] for cells in unlike["rows"]] == ["56", "8"]


@pytest.mark.parametrize(("version", "num", "left_out"), [(2, 64, True), (2, 128, False), (3, 64, False)])
def test_an_older_dump_holds_the_shortest_episodes_unless_it_holds_all(tmp_path, version, num, left_out):
    found = table([metrics(1, 128, h2=0.5)], [(1, 2, num // 2, num)], [dump(tmp_path, version)])
    assert ("recorded its shortest episodes; these shares are not the step's" in found["about"]) == left_out
    assert found["rows"][0][1] == (str(num // 2) if left_out else f"50 % ({num // 2} of {num})")


def test_a_first_record_after_the_first_step_is_told():
    told = "The first recorded step is 10: what changed before it is not here."
    assert told in table([], [(10, 2, 1, 2), (40, 2, 1, 2)])["about"]
    assert "first recorded step" not in table([], [(1, 2, 1, 2), (40, 2, 1, 2)])["about"]


def test_few_episodes_are_counts():
    solved, wrong = table([], [(1, 2, 16, 19), (9, 2, 15, 17)])["rows"]
    assert solved[1:] == ["16 of 19", "15 of 17"]
    assert wrong[1:] == ["3 of 19", "2 of 17"]


def test_a_change_of_an_evaluation_has_its_interval():
    played = [("before", n < 16) for n in range(19)] + [("after", n < 15) for n in range(17)]
    results = [{"checkpoint": at, "success": success, "stop_reason": "terminated"} for at, success in played]
    (found,) = failure_tables(EMPTY, [Source(Path("e"), "e", "evaluation", results=results)])
    parts = ([(None, success) for at, success in played if at == side] for side in ("before", "after"))
    middle, low, high = (100 * value for value in change(*parts))
    assert found["rows"][0][3] == f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"
    assert found["rows"][1][3] == f"{-middle:+.1f} [{-high:+.1f}, {-low:+.1f}]"
    assert low < 0 < high


def test_failures_with_a_malformed_call_are_counted_as_such_whatever_their_ending():
    index = {"run": [0] * 5, "step": [1, 1, 1, 1, 9], "horizon": [2] * 5, "malformed": [1, 2, 0, 1, 0]}
    index["category"] = ["solved", "wrong answer", "wrong answer", "ran out of tokens", "solved"]
    (found,) = failure_tables(index, [Source(Path("a"), "a", "run", {})])
    rows = {name: cells for name, *cells in found["rows"]}
    assert [rows[name][0] for name in ("solved", "wrong answer", "a malformed call")] == ["1 of 4", "1 of 4", "2 of 4"]
    assert len(rows) == 3
    played = [{"checkpoint": 1, "success": each, "stop_reason": "lost", "malformed_turns": 1} for each in (False, None)]
    (found,) = failure_tables(EMPTY, [Source(Path("e"), "e", "evaluation", results=played)])
    assert {name for name, *_ in found["rows"]} == {"a malformed call", "lost"}


def test_a_change_is_welchs_over_the_shares_of_tasks():
    before = [("a", True), ("a", False), ("b", False), ("c", False)]  # shares 0.5, 0, 0
    after = [("d", True), ("e", True), ("e", False), ("f", True)]  # 1, 0.5, 1
    middle, low, high = change(before, after)
    assert middle == pytest.approx(2 / 3)
    # both sides have the variance 1/12 over three tasks: 4 degrees of freedom, whose 97.5 % quantile is 2.776
    assert middle - low == pytest.approx(2.776 * (2 / 12 / 3) ** 0.5, rel=3e-3)
    assert high == 1.0


def test_tasks_that_all_agree_and_single_tasks_claim_no_certainty():
    low, high = change([(None, False)] * 4, [(None, True)] * 4)[1:]
    assert 0 < low < 0.5
    assert high == pytest.approx(1)
    assert change([("a", True)] * 8, [("b", True), ("c", False)]) is None
    results = [{"checkpoint": at, "env": "e", "task": 1, "success": True} for at in (1, 1, 9, 9)]
    (found,) = failure_tables(EMPTY, [Source(Path("a"), "a", "evaluation", results=results)])
    assert found["rows"] == [["solved", "2 of 2", "2 of 2", UNCLEAR]]


def test_horizons_that_only_validation_has_point_to_an_evaluation():
    validation = {"step": 0, "env/val_success/h2": 0.5, "env/val_success/h8": 0.1}
    told = "Horizon 8 is in validation alone: for how its episodes end, trm eval RUN and trm report RUN EVAL."
    assert told in table([validation, metrics(1, 4, h2=0.5)], [(1, 2, 2, 4)])["about"]
    assert "in validation alone" not in table([metrics(1, 4, h2=0.5)], [(1, 2, 2, 4)])["about"]


def test_odd_metrics_spoil_no_table():
    rows = [{"step": [1]}, metrics(1, "x", h2=float("nan")), {"step": 1, "env/num_episodes": 1, "env/success/h2": 7}]
    found = table(rows, [(1, 2, 1, 2)])
    assert found["rows"] == [["solved", "1 of 2"], ["wrong answer", "1 of 2"]]
    assert "others at each step: 2 of step 1." in found["about"]


def test_a_run_with_an_account_by_horizon_has_no_second_table_of_its_records():
    recorded = [(1, 2, 1, 2), (1, 4, 1, 2), (8, 2, 2, 2)]
    assert [found["columns"] for found in tables(risen(), recorded)] == [["ending", "step 1", "step 8"]]
    assert len(tables(risen()[:7], recorded)) == 2
