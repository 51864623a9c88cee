"""Why success changed, at the edges: saturated runs, equal steps, many small ways to fail, names of any letters."""

import random

import pytest

from tests.report.test_why import EMPTY, risen, row, section
from trm_agent.report.account import account_of, change_of
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
    assert found["sentences"][0].startswith("Success of the training episodes went from 25.0 %")
    assert not change_of([25.0] * 4, [50.0] * 4).is_clear
    # 10 steps at 0 and 10 at 100 %: Newcombe's interval leaves 0 out
    assert change_of([0.0] * 10, [100.0] * 10).is_clear


def test_degrees_of_freedom_are_not_floored_by_rounding():
    # equal variances of two values each have 2 degrees: t = 4.303, standard error 1
    change = change_of([0.1, 2.1], [10.1, 12.1])
    assert change.high - change.difference == pytest.approx(4.3027 * 2**0.5, abs=1e-3)


def spread(count):
    """Mistakes that share what one had, and one that grew."""
    rows = []
    for each in risen():
        slips = each.pop("env/ending/h2/mistake/a_slip") + each.pop("env/ending_after_malformed/h2/mistake/a_slip")
        small = {f"env/ending/h2/mistake/slip_{n}": slips / count for n in range(count)}
        rows.append({**each, **small})
    return rows


def test_many_small_ways_to_fail_are_not_called_chance_and_one_that_grew_is_told():
    texts = section(spread(30))["sentences"]
    assert "Many ways to fail became rarer, each of which gives less than 5 % of the change." in texts
    rows = [{**each, "env/success": 0} for each in spread(30)]
    for each in rows:
        grown = 0.001 * (each["step"] % 2) + 0.01 * each["step"]
        each["env/ending/h2/ran_out_of_turns"] = grown
        each["env/ending/h2/solved"] -= grown
    assert any(
        text.startswith("Against it: “ran out of turns” became more frequent") for text in section(rows)["sentences"]
    )


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
        ({"success": False, "stop_reason": "max_tokens", "numbers": {"first_mistake_turn": 1}}, "ran out of tokens"),
        ({"success": False, "stop_reason": "lost", "numbers": {"first_mistake_turn": 1}}, "the first mistake"),
        ({"success": False, "numbers": {"first_mistake/x": 1, "first_mistake_turn": 1}}, "first mistake, x"),
        ({"success": True, "numbers": {"first_mistake/x": 1, "first_mistake_turn": 1}}, "a mistake, without harm"),
        ({"success": False, "numbers": {"answered_early": 1}}, "a malformed call"),
        ({"success": True}, "a malformed call, without harm"),
    ],
)
def test_a_marked_turn_says_why_it_is_marked_and_not_how_the_episode_ended(record, reason):
    assert failing_turn(record, [{"malformed": True}]) == (0, reason)


def test_no_episodes_in_the_list_give_no_examples():
    assert section(risen(), EMPTY)["tables"][0]["examples"] == {}
