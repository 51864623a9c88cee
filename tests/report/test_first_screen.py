"""The first screen's numbers: results, times, how episodes ended, what differs from the preset."""

from pathlib import Path

import pytest

from trm_agent.report.endings import failure_tables
from trm_agent.report.overview import preset_differences
from trm_agent.report.results import result_table
from trm_agent.report.sources import Source
from trm_agent.report.times import (
    BETWEEN,
    FIRST,
    GAPS,
    PREPARATION,
    REST,
    coloured,
    cost_of_a_step,
    gap_series,
    shown_steps,
    step_traces,
    time_shares,
)
from trm_agent.runs.failures import category
from trm_agent.runs.rates import wilson


def source(metrics=(), startup=(), summary=None, config=None, label="a"):
    return Source(Path("a"), label, "run", config or {}, summary=summary, metrics=list(metrics), startup=list(startup))


def row(number, h4, acceptance=None, **timings):
    found = {"step": number, "time": 100.0 + number, **{f"timing_s/{name}": value for name, value in timings.items()}}
    if h4 is not None:
        found |= {"env/val_success/h4": h4, "env/val_num_episodes/h4": 128}
    return found if acceptance is None else found | {"trm/acceptance": acceptance}


OTHER = "another answer than the last result"

RUN = [
    row(0, 0.25),
    row(1, None, 1.0, gen=6.0, update_actor=3.0, step=10.0),
    row(2, 0.5, 0.75, gen=4.0, step=6.0, testing=5.0),
]


def test_results_hold_both_validations_with_intervals_and_the_change():
    table = result_table([source(RUN)])
    # Newcombe: 25 - hypot(50 - 41.46, 33.16 - 25) = 13.2, 25 + hypot(58.54 - 50, 25 - 18.30) = 35.8
    assert table["rows"] == [
        ["success, horizon 4", "25.0 % [18.3, 33.2]", "50.0 % [41.5, 58.5]", "+25.0 [+13.2, +35.8]"],
        ["sequences that the mask accepted", "100.0 %", "75.0 %", "-25.0"],
    ]
    two = result_table([source(RUN), source(RUN, label="b")])
    assert [cells[0] for cells in two["rows"]] == ["a", "a", "b", "b"]


def test_results_are_named_and_counted_as_in_the_table_at_a_runs_end():
    # 128 episodes, four of each task: 32 tasks
    config = {"actor_rollout_ref": {"rollout": {"val_kwargs": {"n": 4}}}}
    summary = {"held_out": False, "trained_horizons": [2, 4]}
    table = result_table([source(RUN, summary=summary, config=config)])
    low, high = wilson(0.25, 32)
    name = "success (not held out), horizon 4 (trained)"
    assert table["rows"][0][:2] == [name, f"25.0 % [{100 * low:.1f}, {100 * high:.1f}]"]
    assert result_table([source(RUN, summary={"held_out": None})])["rows"][0][0] == "success, horizon 4"
    mixed = result_table([source(RUN, summary=summary), source(RUN, label="b")])
    assert [cells[:2] for cells in mixed["rows"][::2]] == [["a", name], ["b", "success, horizon 4"]]
    odd = source(RUN, summary={"held_out": {}, "trained_horizons": 4}, config={"actor_rollout_ref": [4]})
    finished = source(RUN, summary={"held_out": True})
    assert result_table([finished])["rows"][0][0] == "held-out success, horizon 4"
    running = source(RUN, config={"env": {"train": {"horizons": [4]}}})
    assert result_table([running])["rows"][0][0] == "success, horizon 4 (trained)"
    assert result_table([odd])["rows"][0][:2] == ["success, horizon 4", "25.0 % [18.3, 33.2]"]


def test_one_validation_has_no_after_and_none_no_table():
    (cells,) = result_table([source(RUN[:1])])["rows"]
    assert cells[2:] == ["-", "-"]
    assert result_table([source([row(1, None)])]) is None


def test_times_add_up_to_the_wall_time_with_start_up_and_the_first_validation():
    startup = [{"phase": "driver", "time": 70.0}, {"phase": "agent loops", "time": 92.0}]
    times = dict(time_shares(source(RUN, startup, {"wall_s": 60.0})))
    # the steps have 10 and 6 s, of which 9 and 4 are measured; the rows' times leave nothing between them
    assert times == {
        "start-up": 22.0,
        FIRST: 0.0,
        "generation": 10.0,
        "update": 3.0,
        "weights": 0.0,
        "validation": 13.0,
        "checkpoints": 0.0,
        GAPS: 3.0,
        BETWEEN: 0.0,
        REST: 9.0,
    }
    again = [*startup, {"phase": "driver", "time": 200.0}, {"phase": "agent loops", "time": 205.0}]
    assert dict(time_shares(source(RUN, again)))["start-up"] == 27.0
    assert time_shares(source(RUN[:1])) == []


def test_the_time_before_the_driver_is_named():
    startup = [{"phase": "driver", "time": 70.0}, {"phase": "driver", "time": 200.0}]
    first = source(RUN, startup, {"wall_s": 60.0})
    # the first command worked 40 s before its driver, a second one ended before it had one, and the third 5 s
    first.sessions = [{"started": 30.0}, {"started": 110.0}, {"started": 195.0}, {"started": "x"}]
    assert time_shares(first)[0] == (PREPARATION, 45.0)
    assert PREPARATION not in dict(time_shares(source(RUN, startup)))


def test_what_a_step_cost_is_a_mean_over_the_time_of_the_steps_that_tell():
    told = [
        row(1, None, update_weights=0.5, step=1.0) | {"run/trainer_idle": 0.2, "run/tokens_per_s": 100.0},
        row(2, None, update_weights=1.0, step=3.0) | {"run/trainer_idle": 0.6, "run/tokens_per_s": 500.0},
        row(3, None, step=6.0) | {"run/trainer_idle": float("nan"), "run/queue_idle": 1.0},
    ]
    # the trainer: (0.2 x 1 + 0.6 x 3) / 4; the weights: 1.5 s of 4 s in two steps; 100 + 1500 tokens in 4 s
    assert cost_of_a_step(source(told)) == [
        ("idle in a step", "trainer 50 %, queue 100 %"),
        ("weights", "0.75 s a step, 37.5 % of it"),
        ("tokens a second", "400"),
    ]
    assert cost_of_a_step(source(RUN[:1])) == []


def test_no_share_of_time_is_negative_whatever_a_file_says():
    hostile = [row(1, None, gen=float("nan"), update_actor=-5.0, step=1.0) | {"time": None}]
    assert all(seconds >= 0 for _, seconds in time_shares(source(hostile, [{"time": "x"}, {"phase": None}])))


TIMED = [
    row(0, 0.25) | {"time": 100.0},
    # 2 s from the validation's row to the step, 1 s of it unmeasured
    row(1, None, start=0.5, gen=4.0, old_log_prob=0.25, update_actor=2.0, update_weights=0.25, step=8.0)
    | {"time": 110.0},
    # a validation of 5 s and a checkpoint belong to the step's row
    row(2, 0.5, gen=4.0, save_checkpoint=1.5, step=6.0, testing=5.0) | {"time": 121.5},
    row(3, None, gen=7.0, step=7.0) | {"time": 150.0},
]


def test_a_step_is_its_measured_phases_and_the_gap_in_it_and_the_way_from_the_step_before():
    traces = {step: {name: seconds for name, seconds in trace if seconds} for step, trace in step_traces(source(TIMED))}
    assert traces == {
        1: {FIRST: 0.5, "generation": 4.0, "update": 2.25, "weights": 0.25, GAPS: 1.0, BETWEEN: 2.0},
        2: {"generation": 4.0, "checkpoints": 1.5, GAPS: 0.5, "validation": 5.0, BETWEEN: 0.5},
        3: {"generation": 7.0, BETWEEN: 21.5},
    }


def test_a_start_up_between_two_steps_is_not_charged_to_them():
    startup = [{"phase": "driver", "time": 70.0}, {"phase": "driver", "time": 125.0}]
    assert dict(step_traces(source(TIMED, startup))[2][1])[BETWEEN] == 0.0
    # nor is a time that a row does not tell
    assert dict(step_traces(source([TIMED[1] | {"time": None}, TIMED[2]]))[1][1])[BETWEEN] == 0.0


def test_the_typical_the_first_the_slowest_and_the_last_step_are_drawn_in_the_colours_of_the_whole():
    shown = shown_steps(source(TIMED))
    # 10, 6.5 and 28.5 s without the validation
    assert [step["label"] for step in shown] == ["typical and first step, 1", "slowest and last step, 3"]
    whole = {name: colour for name, _, colour in coloured(time_shares(source(TIMED)))}
    assert len(set(whole.values())) == len(whole)
    assert {name: colour for name, _, colour in shown[0]["phases"]}.items() <= whole.items()
    assert shown_steps(source(TIMED[:1])) == []


def test_the_times_that_nobody_measured_are_curves_where_there_are_any():
    gaps, between = gap_series(source(TIMED))
    assert (gaps["label"], gaps["x"], gaps["y"]) == (GAPS, [1, 2, 3], [1.0, 0.5, 0.0])
    assert between["y"] == [2.0, 0.5, 21.5]
    assert gap_series(source([row(1, None, gen=4.0, step=4.0)])) == []


@pytest.mark.parametrize("step", [float("inf"), None, "x", True])
def test_a_step_without_a_number_or_a_time_has_no_trace(step):
    assert step_traces(source([row(1, None, step=4.0) | {"step": step}])) == []
    assert step_traces(source([row(1, None, step=step)])) == []


@pytest.mark.parametrize(
    ("record", "malformed", "told"),
    [
        ({"success": True, "stop_reason": "terminated"}, 1, "solved"),
        ({"success": False, "stop_reason": "terminated"}, 0, "wrong answer"),
        ({"success": False, "stop_reason": "terminated"}, 2, "wrong after a malformed call"),
        ({"success": False, "stop_reason": "terminated", "numbers": {"answered_early": 1.0}}, 2, "answered early"),
        ({"success": False, "stop_reason": "terminated", "numbers": {"answered_early": 0.0}}, 0, "wrong answer"),
        ({"success": False, "numbers": {"steps_done_frac": 0.5}}, 0, "answered early"),
        ({"success": False, "numbers": {"steps_done_frac": 1.0, "last_result_right": 1.0}}, 0, OTHER),
        ({"success": False, "numbers": {"steps_done_frac": 1.0, "last_result_right": 0.0}}, 0, "a call was wrong"),
        ({"success": False, "numbers": {"answered_early": 1.0, "last_result_right": 1.0}}, 0, "answered early"),
        ({"success": False, "numbers": {"first_mistake/a_b": 0.0, "first_mistake/c_d": 1.0}}, 1, "wrong answer: c d"),
        ({"success": False, "numbers": {"first_mistake/a_b": 0.0, "last_result_right": 1.0}}, 0, OTHER),
        ({"success": True, "numbers": {"first_mistake/a_b": 1.0}}, 0, "solved"),
        ({"success": False, "numbers": {"answered_early": 1.0, "first_mistake/a": 1.0}}, 0, "answered early"),
        ({"success": True, "numbers": {"last_result_right": 0.0}}, 0, "solved"),
        ({"success": False, "numbers": {"steps_done_frac": "x", "last_result_right": []}}, 0, "wrong answer"),
        ({"success": False, "stop_reason": "max_tokens", "numbers": {"steps_done_frac": 0.5}}, 0, "ran out of tokens"),
        ({"success": False, "stop_reason": "max_tokens"}, 0, "ran out of tokens"),
        ({"success": False, "stop_reason": "max_turns"}, 3, "ran out of turns"),
        ({"success": False, "stop_reason": "max_tool_calls"}, 0, "ran out of tool calls"),
        ({"success": False, "stop_reason": "max_tool_time"}, 0, "ran out of tool time"),
        ({"success": False, "stop_reason": "max_malformed_turns"}, 1, "ended at a malformed call"),
        ({"success": False, "stop_reason": "terminated", "scorer_error": "x"}, 0, "scorer error"),
        ({"success": None, "stop_reason": "env_error"}, 0, "env error"),
        ({}, 0, "not known"),
        ({"success": False, "numbers": [1], "stop_reason": 3}, 0, "wrong answer"),
    ],
)
def test_an_ending_has_one_category(record, malformed, told):
    assert category(record, malformed) == told


def test_categories_are_counted_over_the_steps_and_by_horizon_at_their_ends():
    index = {
        "run": [0, 0, 0, 0, 1],
        "step": [10, 10, 40, 20, 5],
        "horizon": [2, 4, 2, 2, None],
        "category": ["solved", "wrong answer", "solved", "wrong answer", "not known"],
    }
    over, by_horizon, second = failure_tables(index, [source(), source(label="b")])
    assert over["columns"] == ["ending", "step 10", "step 20", "step 40"]
    assert over["rows"] == [
        ["solved", "1 of 2", "0 of 1", "1 of 1"],
        ["wrong answer", "1 of 2", "1 of 1", "0 of 1"],
    ]
    heads = ["horizon 2, step 10", "horizon 2, step 40", "horizon 4, step 10", "horizon 4, step 40"]
    assert by_horizon["columns"] == ["ending", *heads]
    assert by_horizon["rows"] == [
        ["solved", "1 of 1", "1 of 1", "0 of 1", "-"],
        ["wrong answer", "0 of 1", "0 of 1", "1 of 1", "-"],
    ]
    assert (second["title"], second["columns"]) == ("How training episodes ended: b", ["ending", "all"])


def test_an_evaluation_counts_all_episodes_of_its_first_and_its_last_checkpoint():
    def played(checkpoint, horizon, success, **more):
        return {"checkpoint": checkpoint, "horizon": horizon, "success": success, "stop_reason": "terminated", **more}

    results = [
        played("before", 4, False, malformed_turns=2),
        played("before", 4, True, malformed_turns=1),
        played("between", 4, False),
        played("after", 4, True),
        played("after", [4], None, malformed_turns="x"),
    ]
    evaluation = Source(Path("e"), "e", "evaluation", results=results)
    over, table = failure_tables({"run": [], "step": [], "horizon": [], "category": []}, [evaluation])
    assert over["columns"] == ["ending", "before", "between", "after", "change"]
    assert over["rows"][0][1:4] == ["1 of 2", "0 of 1", "1 of 2"]
    assert "could not read a call" in over["explained"]["a malformed call"]
    assert "answered early" not in over["explained"]
    assert table["columns"] == ["ending", "horizon 4, before", "horizon 4, after", "all, before", "all, after"]
    assert table["rows"] == [
        ["solved", "1 of 2", "1 of 1", "-", "0 of 1"],
        ["a malformed call", "1 of 2", "0 of 1", "-", "0 of 1"],
        ["not known", "0 of 2", "0 of 1", "-", "1 of 1"],
    ]


def test_what_differs_from_the_preset_is_named_and_what_a_run_sets_for_itself_is_not():
    from trm_agent.runs.compose import compose_run, plain

    config = plain(compose_run(["experiment=math_nano", "actor_rollout_ref.actor.optim.lr=0.25", "run.dir=/x"]))
    found = preset_differences(source(config=config))
    assert found["name"] == "math_nano"
    assert [(field, value) for field, _, value in found["rows"]] == [("actor_rollout_ref.actor.optim.lr", "0.25")]
    # a run that is named after its environment, or by the user
    config["trainer"]["experiment_name"] = "frozen_lake"
    config["env"] |= {"id": "trm/Gym-v0", "kwargs": {"env_id": "FrozenLake-v1"}}
    found = preset_differences(source(config=config))
    assert found["name"] == "math_nano"
    rows = {field: (preset, own) for field, preset, own in found["rows"]}
    assert rows["env.id"] == ("trm/ChainMath-v0", "trm/Gym-v0")
    assert rows["env.kwargs.env_id"] == ("(absent)", "FrozenLake-v1")
    # one from before the preset was stored
    config["run"]["experiment"] = None
    assert preset_differences(source(config=config)) is None
    assert preset_differences(source(config={"run": 3, "trainer": {"experiment_name": "mine"}})) is None
    assert preset_differences(source()) is None
