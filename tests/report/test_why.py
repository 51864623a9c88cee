"""Why success changed: the account adds up, and the words claim no more than the intervals."""

from pathlib import Path

import pytest

from trm_agent.report.account import account_of
from trm_agent.report.held_out import NO_ENDINGS
from trm_agent.report.sources import Source
from trm_agent.report.why import CHANCE, OLDER, PARTLY, UNEVEN, why_sections
from trm_agent.runs.failures import failing_turn

EMPTY: dict = {"run": [], "step": [], "category": []}
CLEAN, AFTER = "env/ending/h2", "env/ending_after_malformed/h2"
SLIP = "wrong answer: a slip"


def row(number, slip, cut, *, malformed=0.0, lucky=0.0, prefix="h2", **more):
    """A step whose slips fall to clean and malformed episodes; the rest is solved."""
    own = {
        f"env/ending/{prefix}/mistake/a_slip": slip - malformed,
        f"env/ending_after_malformed/{prefix}/mistake/a_slip": malformed,
        f"env/ending/{prefix}/ran_out_of_tokens": cut,
        f"env/ending/{prefix}/solved_despite_a_mistake": lucky,
        f"env/ending/{prefix}/solved": 1 - slip - cut - lucky,
    }
    return {"step": number, "env/success": 1 - slip - cut, **own, **more}


def risen(**more):
    """Eight steps: slips 0.5 to 0.2 (0.2 of them malformed at first), cuts 0.1 to 0.05, with a little noise."""
    noise = [0.0, 0.01]
    early = [row(n, 0.5 + noise[n % 2], 0.1, malformed=0.2, **more) for n in range(1, 5)]
    return early + [row(n, 0.2, 0.05 + noise[n % 2], lucky=0.03, **more) for n in range(5, 9)]


def section(rows, index=EMPTY, config=None):
    (found,) = why_sections([Source(Path("a"), "a", "run", config or {}, metrics=rows)], index)
    return found


def test_the_rows_add_up_to_the_change_and_so_do_the_parts_of_a_row():
    account = account_of(risen())
    assert account is not None
    for part in (*account.parts, account):
        whole = part.whole if part is not account else account.failures
        assert part.clean.difference + part.malformed.difference == pytest.approx(whole.difference)
    assert sum(part.whole.difference for part in account.parts) == pytest.approx(-account.success.difference)
    # means of 0.39 and 0.4, of 0.75 and 0.74
    assert (account.success.before, account.success.after) == (pytest.approx(39.5), pytest.approx(74.5))
    assert account.lucky.after == pytest.approx(3.0)
    assert [part.malformed.before for part in account.parts] == [pytest.approx(20.0), 0]


def test_the_words_name_the_causes_with_their_parts_and_the_table_has_every_row():
    found = section(risen())
    first, slip, *others = found["sentences"]
    assert first.startswith("Success of the training episodes rose from 39.5 % (steps 1 to 2) to 74.5 % (steps 7 to 8)")
    # 30.5 of 35 points
    assert slip.startswith("87 % of the change: “a slip” became rarer, 50.5 to 20.0 % of episodes, -30.5 [")
    assert any(
        text.startswith("Seen another way: failures after a malformed call, whatever their kind, went 20.0 to 0.0")
        for text in others
    )
    (table,) = found["tables"]
    assert [cells[0] for cells in table["rows"]] == ["success", SLIP, "ran out of tokens", "all failures"]
    assert [cells[4] for cells in table["rows"]] == ["", "87 %", "13 %", "100 %"]
    assert "0.0 to 3.0 % of episodes, +3.0" in table["about"]
    assert "ran out of tokens" in table["explained"]
    assert "malformed call" in table["explained"]
    assert table["columns"][0] == "% of training episodes"


def test_a_fall_is_told_as_a_fall():
    rows = [{**each, "step": place} for place, each in enumerate(reversed(risen()), 1)]
    first, slip, *_ = section(rows)["sentences"]
    assert "fell from 74.5 %" in first
    assert slip.startswith("87 % of the change: “a slip” became more frequent")


def test_nothing_is_explained_where_chance_is_not_excluded():
    rows = [row(n, 0.5 + 0.2 * (n % 2), 0.1) for n in range(1, 9)]
    found = section(rows)
    assert found["sentences"][1] == CHANCE
    assert not any("of the change" in text or "skill rose" in text for text in found["sentences"])
    assert all(cells[4] == "" for cells in found["tables"][0]["rows"])


def test_horizons_have_accounts_of_their_own():
    rows = []
    for each in risen():
        halves = {name: value / 2 for name, value in each.items() if name.startswith("env/ending")}
        long = {name.replace("/h2/", "/h16/"): value for name, value in halves.items()}
        rows.append({**each, **halves, **long})
    found = section(rows)
    _, by_horizon = found["tables"]
    assert by_horizon["columns"] == ["% of these episodes", "horizon 2", "horizon 16"]
    assert by_horizon["rows"][0][1].startswith("39.5 to 74.5, +35.0 [")
    assert by_horizon["rows"][0][1] == by_horizon["rows"][0][2]
    assert any(
        text.startswith("By length of the task: horizon 2 39.5 to 74.5 %, +35.0 points [")
        for text in found["sentences"]
    )


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda rows: [{name: value for name, value in each.items() if "ending" not in name} for each in rows], OLDER),
        (lambda rows: [*rows[:-1], {"step": 8, "env/success": 0.7}], PARTLY),
        (lambda rows: [*rows[:-1], {**rows[-1], f"{CLEAN}/solved": 0.1}], UNEVEN),
        (lambda rows: [*rows[:-1], {**rows[-1], f"{CLEAN}/solved": None}], UNEVEN),
        (lambda rows: [*rows[:-1], {**rows[-1], f"{CLEAN}/solved": "x"}], UNEVEN),
    ],
)
def test_shares_that_are_missing_or_do_not_add_up_make_no_account(spoil, why):
    found = section(spoil(risen()))
    assert (found["tables"], found["sentences"][1]) == ([], why)


def test_few_steps_and_evaluations_have_no_section():
    rows = risen()
    assert why_sections([Source(Path("a"), "a", "run", metrics=rows[:7])], EMPTY) == []
    assert why_sections([Source(Path("a"), "a", "evaluation", metrics=rows)], EMPTY) == []


def validated(old, new, sampled_old=0.2, sampled_new=0.5, num=400):
    """The rise, with greedy and sampled validations before and after it."""

    def rates(greedy, sampled):
        found = {"env/val_success/greedy_h2": greedy, "env/val_num_episodes/greedy_h2": num}
        return found | {"env/val_success/h2": sampled, "env/val_num_episodes/h2": num}

    rows = risen()
    return [{"step": 0, **rates(old, sampled_old)}, *rows[:-1], {**rows[-1], **rates(new, sampled_new)}]


@pytest.mark.parametrize(
    ("greedy", "words"),
    [
        ((0.3, 0.6), "So skill rose, and not the sharpness of sampling alone."),
        ((0.6, 0.6), "Sampled play rose 30.0 points"),
        ((0.6, 0.5), "Sampled play rose 40.0 points"),
    ],
)
def test_greedy_validation_tells_skill_from_sharper_sampling(greedy, words):
    *others, verdict = section(validated(*greedy))["sentences"]
    assert words in verdict
    assert any(f"from {100 * greedy[0]:.1f} % (step 0) to {100 * greedy[1]:.1f} % (step 8)" in text for text in others)
    # sampled success is 50 % after it
    is_above = greedy[0] > 0.5
    assert any(text.startswith("Greedy success before training (60.0 %) exceeds") for text in others) == is_above
    assert ("That skill rose is not shown." in verdict) == (greedy[0] >= greedy[1])


def test_a_few_greedy_tasks_tell_nothing_and_none_say_how_to_have_some():
    assert "this run does not show whether" in section(validated(0.4, 0.5, num=20))["sentences"][-1]
    assert "This run was not validated" in section(risen())["sentences"][-1]
    sampled = [{name: value for name, value in each.items() if "greedy" not in name} for each in validated(0, 0)]
    assert "validated by sampling alone" in section(sampled)["sentences"][-1]
    once = validated(0.4, 0.5)[1:]
    assert "cannot be told apart yet" in section(once)["sentences"][-1]


def test_a_validation_at_temperature_0_is_greedy_itself():
    config = {"actor_rollout_ref": {"rollout": {"val_kwargs": {"temperature": 0}}}}
    rows = [{name: value for name, value in each.items() if "greedy" not in name} for each in validated(0, 0)]
    assert "So skill rose" in section(rows, config=config)["sentences"][-1]


def with_validations(*steps, tasks=200):
    """The rise, with validations that record for each task of horizon 2 whether it is solved, sampled and greedily.

    Args:
        steps: of each validation, its step and the shares of tasks solved: sampled, greedily.
    """
    slip, solved = "env/ending/h2/mistake/kind/a_slip", "env/ending/h2/solved"
    names = [f"t{number}" for number in range(tasks)]

    def split(share):
        cut = round(share * tasks)
        return {name: own for name, own in ((solved, names[:cut]), (slip, names[cut:])) if own}

    rows = [{"step": step, "endings": {"h2": split(s), "greedy_h2": split(g)}} for step, s, g in steps]
    config = {"actor_rollout_ref": {"rollout": {"temperature": 1.0, "val_kwargs": {"temperature": 0.7}}}}
    (found,) = why_sections([Source(Path("a"), "a", "run", config, metrics=risen(), validations=rows)], EMPTY)
    return found


def test_validations_with_tasks_are_paired_on_the_same_tasks_and_every_one_is_named():
    found = with_validations((0, 0.2, 0.6), (4, 0.3, 0.55), (8, 0.5, 0.6))
    *_, held_out, numbers, suffices, verdict = found["sentences"]
    assert "60.0 % (step 0), 55.0 % (step 4), 60.0 % (step 8), +0.0 points [" in numbers
    assert "Sampled at temperature 0.7 on the same 200 tasks: 20.0 % (step 0), 30.0 % (step 4), 50.0 %" in numbers
    assert "ahead by 40.0 points before and 10.0 after, -30.0 [" in numbers
    assert suffices.startswith("Greedy success before training (60.0 %) exceeds sampled success after it (50.0 %)")
    assert verdict.endswith("That skill rose is not shown.")
    assert held_out.startswith(
        "The 200 tasks of validation, sampled: success 20.0 % (step 0) to 50.0 % (step 8), +30.0 ["
    )
    assert "100 % of the change: “kind” 80.0 to 50.0 %, -30.0 [" in held_out
    assert "at temperature 1.0" in found["scope"]


def test_a_paired_interval_is_narrower_than_one_of_two_samples():
    found = with_validations((0, 0.2, 0.5), (8, 0.5, 0.56))
    # 12 of 200 tasks more and none fewer; unpaired, +6 points have an interval of about 10 to either side
    verdict = found["sentences"][-1]
    assert "Greedy success rose by 6.0 points. So skill rose. Sampled success rose 24.0 points more" in verdict
    assert not any(
        "exceeds sampled success" in text for text in with_validations((0, 0.2, 0.5), (8, 0.6, 0.6))["sentences"]
    )


def test_a_greedy_validation_between_that_went_the_other_way_is_told():
    assert (
        "from step 0 to step 4 greedy success went the other way, -10.0 ["
        in (with_validations((0, 0.2, 0.5), (4, 0.3, 0.4), (8, 0.5, 0.6))["sentences"][-1])
    )
    for between in (0.49, 0.5, 0.7):
        found = with_validations((0, 0.2, 0.5), (4, 0.3, between), (8, 0.5, 0.6))
        assert "So skill rose" in found["sentences"][-1]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 0, "endings": {"h2": {"env/ending/h2/solved": ["a"]}}}],
        [{"step": "x", "endings": {}}, {"step": 1, "endings": [1]}, {"endings": {"h2": 1}}, {"step": 2}],
        [{"step": n, "endings": {"h2": {"x": ["a"], "env/ending/h2/solved": 3}, "?": {}}} for n in (0, 8)],
        [{"step": n, "endings": {"h2": {"env/ending/h2/solved": [f"t{n}"]}}} for n in (0, 8)],
    ],
)
def test_validations_that_are_missing_broken_or_of_other_tasks_give_no_account(rows):
    (found,) = why_sections([Source(Path("a"), "a", "run", metrics=risen(), validations=rows)], EMPTY)
    assert NO_ENDINGS in found["sentences"]


def test_mistakes_of_a_family_are_added_up_and_its_members_told_in_points():
    rows = []
    for each in risen():
        named = {name.replace("mistake/a_slip", "mistake/a_kind/a_slip"): value for name, value in each.items()}
        cut = named.pop("env/ending/h2/ran_out_of_tokens")
        rows.append({**named, "env/ending_after_malformed/h2/mistake/a_kind/a_lapse": cut})
    found = section(rows)
    cause = found["sentences"][1]
    # 50.5 and 10, 20 and 5.5 percent
    assert cause.startswith("100 % of the change: “a kind” as first mistake became rarer, 60.5 to 25.5 % of episodes")
    assert "In points: “a slip” -30.5 [" in cause
    assert [cells[0] for cells in found["tables"][0]["rows"]][1:3] == [SLIP, "wrong answer: a lapse"]
    assert "Every such episode had a malformed call." in found["tables"][0]["explained"]["wrong answer: a lapse"]


def test_the_policys_sureness_is_told():
    rows = [{**each, "env/token_nll": 0.2 + 0.001 * (n % 2) - 0.1 * (n > 3)} for n, each in enumerate(risen())]
    assert any(text.startswith("The policy became surer: the mean -log p") for text in section(rows)["sentences"])
    rows = [{**each, "env/token_nll": 0.2 + 0.01 * (n % 2)} for n, each in enumerate(risen())]
    assert any(text.startswith("The policy became neither") for text in section(rows)["sentences"])


def test_examples_are_of_the_first_and_the_last_recorded_step_of_an_ending():
    index = {"run": [1, 0, 0, 0, 0], "step": [1, 1, 1, 4, 8], "category": [SLIP, "solved", SLIP, SLIP, SLIP]}
    assert section(risen(), index)["tables"][0]["examples"] == {SLIP: [2, 4]}
    unequal = {**index, "advantage": [0.0, 0.0, 0.0, 0.5, 0.0]}
    assert section(risen(), unequal)["tables"][0]["examples"] == {SLIP: [3]}
    once = {"run": [0], "step": [1], "category": [SLIP]}
    assert section(risen(), once)["tables"][0]["examples"] == {SLIP: [0]}


@pytest.mark.parametrize(
    ("record", "malformed", "turn"),
    [
        ({"numbers": {"first_mistake_turn": 2.0}}, [True, False], 1),
        ({"numbers": {"first_mistake_turn": 3.0}}, [False, True], 1),
        ({"numbers": {"first_mistake_turn": "x"}}, [True, False], 0),
        ({"numbers": {"first_mistake_turn": 1.0}, "stop_reason": "max_tokens", "success": False}, [True, False], 1),
        ({"numbers": [1], "stop_reason": "max_tokens", "success": False}, [False, False], 1),
        ({"stop_reason": "max_tokens", "success": False}, [], None),
        ({"stop_reason": "terminated", "success": False}, [False], None),
        ({}, [False], None),
    ],
)
def test_the_turn_that_went_wrong_is_the_last_of_a_limit_else_the_mistakes_else_a_malformed_one(
    record, malformed, turn
):
    found = failing_turn(record, [{"malformed": each} for each in malformed])
    assert (found and found[0]) == turn
