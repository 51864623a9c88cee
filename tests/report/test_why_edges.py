"""Why success changed, at the edges: saturated runs, equal steps, many small ways to fail, names of any letters."""

import random
from pathlib import Path

import pytest

from tests.report.test_why import EMPTY, risen, row, section
from trm_agent.report.account import account_of, change_of
from trm_agent.report.changes import welch
from trm_agent.report.sources import Source
from trm_agent.report.why import why_sections
from trm_agent.runs.failures import ending_shares, failing_turn


@pytest.mark.parametrize("episodes", [60, 96, 120, 127])
def test_a_saturated_run_of_any_number_of_episodes_has_nothing_to_explain(episodes):
    draw = random.Random(episodes)
    horizons = (2, 4, 6, 8)
    for _ in range(20):
        rows = []
        for step in range(1, 9):
            records = [
                {"horizon": draw.choice(horizons), "success": True, "malformed_turns": int(draw.random() < 0.3)}
                for _ in range(episodes)
            ]
            rows.append({"step": step, "env/success": 1.0, **ending_shares(records)})
        account = account_of(rows)
        assert account is not None
        assert not account.success.is_clear
        assert account.failures.difference == 0
        found = section(rows)
        assert not any("% of the change" in text for text in found["sentences"])
        assert not any("-0.0" in cell for cells in found["tables"][0]["rows"] for cell in cells)


def test_success_and_all_failures_have_mirror_intervals_within_100_points():
    draw = random.Random(1)
    for _ in range(50):
        rows = [row(n, draw.random() * 0.5, draw.random() * 0.5) for n in range(1, 9)]
        account = account_of(rows)
        assert account is not None
        assert (account.failures.low, account.failures.high) == (-account.success.high, -account.success.low)
        assert -100 <= account.success.low <= account.success.high <= 100


def test_equal_steps_do_not_make_a_change_certain():
    rows = [row(n, 0.65 if n < 5 else 0.4, 0.1) for n in range(1, 9)]
    found = section(rows)
    assert found["sentences"][0].startswith("Success of the training episodes changed by +25.0 points [")
    assert not change_of([25.0] * 4, [50.0] * 4).is_clear
    # 10 steps at 0 and 10 at 100 %: Newcombe's interval leaves 0 out
    assert change_of([0.0] * 10, [100.0] * 10).is_clear


def test_degrees_of_freedom_are_not_floored_by_rounding():
    # equal variances of five values each have 8 degrees, as floats 7.999999999999998; t = 2.306
    old = [84.251968504, 7.874015748, 51.968503937, 97.637795276, 81.102362205]
    _, low, high = welch(old, [value + 7.3 for value in old])
    mean = sum(old) / 5
    error = 2 * sum((value - mean) ** 2 for value in old) / 4 / 5
    assert (high - low) / 2 == pytest.approx(2.306 * error**0.5, rel=1e-3)


def spread(count):
    """Mistakes that share what one had, and one that grew."""
    rows = []
    for each in (row(n, 0.5 + 0.01 * (n % 2) if n < 5 else 0.2, 0.1) for n in range(1, 9)):
        slips = each.pop("env/ending/h2/mistake/a_slip") + each.pop("env/ending_after_malformed/h2/mistake/a_slip")
        small = {f"env/ending/h2/mistake/slip_{n}": slips / count for n in range(count)}
        rows.append({**each, **small})
    return rows


def test_many_small_ways_to_fail_are_not_called_chance_and_one_that_grew_is_told():
    texts = section(spread(30))["sentences"]
    assert not any("because" in text for text in texts)
    small = "30 ways to fail, each with less than 5 % of the change, became rarer by more than chance explains."
    assert small in texts
    rows = [{**each, "env/success": 0} for each in spread(30)]
    for each in rows:
        grown = 0.001 * (each["step"] % 2) + 0.01 * each["step"]
        each["env/ending/h2/ran_out_of_turns"] = grown
        each["env/ending/h2/solved"] -= grown
    assert any("Against it: “ran out of turns” became more frequent" in text for text in section(rows)["sentences"])


@pytest.mark.parametrize("name", ["Not The Last Result", "ein Übertrag fehlt", "n=2: off by 1"])
def test_names_of_any_letters_keep_their_examples(name):
    rows = [
        {"step": n, "env/success": 0.5, **ending_shares([
            {"horizon": 2, "success": True}, {"horizon": 2, "success": False, "numbers": {f"first_mistake/{name}": 1}}
        ])}
        for n in range(1, 9)
    ]  # fmt: skip
    index = {"run": [0], "step": [3], "category": [f"wrong answer: {name}"]}
    (examples,) = section(rows, index)["tables"][0]["examples"].values()
    assert examples == [0]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (
            {"success": False, "stop_reason": "max_tokens", "numbers": {"first_mistake_turn": 1}},
            "the first mistake; the episode then ran out of tokens",
        ),
        ({"success": False, "stop_reason": "max_tokens"}, "a malformed call; the episode then ran out of tokens"),
        ({"success": False, "stop_reason": "max_malformed_turns"}, "a malformed call"),
        ({"success": False, "stop_reason": "lost", "numbers": {"first_mistake_turn": 1}}, "the first mistake"),
        ({"success": False, "numbers": {"first_mistake/x": 1, "first_mistake_turn": 1}}, "first mistake, x"),
        ({"success": True, "numbers": {"first_mistake/x": 1, "first_mistake_turn": 1}}, "a mistake, without harm"),
        ({"success": False, "numbers": {"answered_early": 1}}, "a malformed call"),
        ({"success": True}, "a malformed call, without harm"),
    ],
)
def test_a_marked_turn_says_why_it_is_marked_and_what_ended_the_episode(record, reason):
    assert failing_turn(record, [{"malformed": True}]) == (0, reason)


def test_what_was_frequent_in_between_alone_is_told():
    rows = [row(n, 0.5 if n < 15 else 0.3, (0.3 if 8 < n < 17 else 0.1) + 0.01 * (n % 2)) for n in range(1, 25)]
    told = "In between: “ran out of tokens” rose to 30.4 % of episodes in steps 10 to 14 (10.5 % before, 10.5 % after)."
    assert told in section(rows)["sentences"]
    flat = [row(n, 0.5 if n < 15 else 0.3, 0.1 + 0.02 * (n % 2)) for n in range(1, 25)]
    assert not any("In between" in text for text in section(flat)["sentences"])


def test_a_cause_of_more_than_all_of_the_change_says_so_and_the_rest_is_in_points():
    rows = [row(n, 0.5 if n < 5 else 0.2 + 0.01 * (n % 2), 0.1 + 0.01 * (n % 2) + 0.1 * (n > 4)) for n in range(1, 9)]
    texts = section(rows)["sentences"]
    assert any("of the change (more than all of it, as others went the other way)" in text for text in texts)
    rest = "All other ways to fail together: 10.5 to 20.5 % of episodes, +10.0 ["
    assert any(text.startswith(rest) and "Against it: “ran out of tokens”" in text for text in texts)


def test_a_family_with_one_member_at_a_horizon_keeps_its_row_there():
    rows = []
    for each in risen():
        own = {name: value / 2 for name, value in each.items() if name.startswith("env/ending")}
        short = {name.replace("mistake/a_slip", "mistake/kind/a_slip"): value for name, value in own.items()}
        long = {
            name.replace("/h2/", "/h4/").replace("mistake/a_slip", "mistake/kind/a_lapse"): value
            for name, value in own.items()
        }
        rows.append({"step": each["step"], "env/success": each["env/success"], **short, **long})
    _, by_horizon = section(rows)["tables"]
    cells = {name: values for name, *values in by_horizon["rows"]}
    assert cells["kind"] == [cells["\u2003wrong answer: a slip"][0], cells["\u2003wrong answer: a lapse"][1]]
    assert cells["\u2003wrong answer: a slip"][1] == "0"


def test_validation_at_temperature_0_is_not_called_sampled():
    names = [f"t{number}" for number in range(200)]

    def solved(num):
        return {"h2": {"env/ending/h2/solved": names[:num], "env/ending/h2/ran_out_of_tokens": names[num:]}}

    config = {"actor_rollout_ref": {"rollout": {"val_kwargs": {"temperature": 0}}}}
    rows = [{"step": 0, "endings": solved(50)}, {"step": 8, "endings": solved(100)}]
    (found,) = why_sections([Source(Path("a"), "a", "run", config, metrics=risen(), validations=rows)], EMPTY)
    assert "does not touch, rose by +25.0 [" in found["sentences"][0]
    assert not any("Validation, sampled" in text or "was not recorded" in text for text in found["sentences"])


def test_without_other_ways_to_fail_there_is_no_rest():
    assert not any("All other" in text for text in section(risen())["sentences"])


def both(old, new, num=400):
    """Rates of greedy and sampled validations, of the horizons that each has."""
    rows = risen()
    for at, rates in ((0, old), (-1, new)):
        for name, rate in rates.items():
            rows[at] |= {f"env/val_success/{name}": rate, f"env/val_num_episodes/{name}": num}
    rows[0]["step"] = 0
    return rows


def test_a_horizon_that_one_validation_lacks_is_not_compared_and_no_horizon_speaks_for_another():
    old = {"greedy_h2": 0.3, "h2": 0.2, "greedy_h8": 0.3, "h8": 0.2}
    found = section(both(old, {"greedy_h2": 0.6, "h2": 0.5, "h4": 0.9, "greedy_h8": 0.31, "h8": 0.2}))["sentences"]
    assert "at horizon 2, which is skill; it changed by +1.0 [" in found[0]
    assert found[0].endswith("at horizon 8, not distinguishable from 0.")
    lacking = section(both(old, {"greedy_h2": 0.6, "h2": 0.5, "h4": 0.9}))["sentences"]
    assert not any("horizon 8" in text or "horizon 4" in text for text in lacking)


def test_sampled_play_that_fell_is_not_said_to_have_risen_more():
    found = section(both({"greedy_h2": 0.6, "h2": 0.5}, {"greedy_h2": 0.2, "h2": 0.4}))["sentences"]
    assert not any("sampled play rose" in text for text in found)
    assert "changed by -40.0 [-45.9, -33.6] at horizon 2: whether skill rose" in found[0]


def test_other_greedy_tasks_give_no_verdict_and_a_late_start_is_told():
    rows = both({"greedy_h2": 0.3, "h2": 0.2}, {"greedy_h2": 0.6, "h2": 0.5})
    rows[-1]["env/val_num_episodes/greedy_h2"] = 200
    found = section(rows)["sentences"]
    assert "skill" not in found[0]
    assert "are others than those of step 0" in found[-1]
    late = both({}, {"greedy_h2": 0.6, "h2": 0.5})
    late[4] |= {"env/val_success/greedy_h2": 0.3, "env/val_num_episodes/greedy_h2": 400}
    found = section(late)["sentences"]
    assert any("It covers steps 5 to 8 alone" in text for text in found)
    assert "Greedy validation from step 5 to step 8, which surer sampling does not touch, rose by" in found[0]


def test_no_episodes_in_the_list_give_no_examples():
    assert section(risen(), EMPTY)["tables"][0]["examples"] == {}


@pytest.mark.parametrize(
    ("record", "malformed", "turn"),
    [
        ({"numbers": {"first_mistake_turn": 2.0}}, [True, False], 0),
        ({"numbers": {"first_mistake_turn": 1.0}}, [False, True], 0),
        ({"numbers": {"first_mistake_turn": 3.0}}, [False, True], 1),
        ({"numbers": {"first_mistake_turn": "x"}}, [True, False], 0),
        ({"numbers": {"first_mistake_turn": 1.0}, "stop_reason": "max_tokens", "success": False}, [False, True], 0),
        ({"stop_reason": "max_tokens", "success": False}, [False, True, False, True, False], 1),
        ({"numbers": [1], "stop_reason": "max_tokens", "success": False}, [False, False], 1),
        ({"stop_reason": "max_tokens", "success": False}, [], None),
        ({"stop_reason": "terminated", "success": False}, [False], None),
        ({}, [False], None),
    ],
)
def test_the_turn_that_first_went_wrong_is_a_mistakes_or_a_malformed_one_else_the_limits(record, malformed, turn):
    found = failing_turn(record, [{"malformed": each} for each in malformed])
    assert (found and found[0]) == turn


def test_a_mistake_and_a_malformed_call_are_told_in_their_order():
    record = {"success": False, "stop_reason": "max_tokens", "numbers": {"first_mistake/x": 1, "first_mistake_turn": 2}}
    turns = [{"malformed": each} for each in (False, False, True)]
    then = "the episode then ran out of tokens"
    assert failing_turn(record, turns) == (1, f"first mistake, x; later a malformed call; {then}")
    assert failing_turn(record, turns[::-1]) == (0, f"a malformed call; later first mistake, x; {then}")


def test_a_share_has_its_interval_however_wide():
    rows = [
        row(n, 0.5 - 0.1 * (n > 4) + 0.08 * (n % 3), 0.3 - 0.2 * (n > 4) - 0.08 * (n % 3) + 0.01 * (n % 2))
        for n in range(1, 9)
    ]
    (table,) = section(rows)["tables"]
    shares = {name: share for name, _, _, _, share in table["rows"]}
    low, high = map(int, shares["wrong answer: a slip"].partition("[")[2].strip("]").split(", "))
    assert high - low > 50
