"""Why success changed: the account adds up, and the words claim no more than the intervals."""

from pathlib import Path

import pytest

from trm_agent.report.account import account_of
from trm_agent.report.held_out import NO_ENDINGS
from trm_agent.report.sources import Source
from trm_agent.report.why import CHANCE, OLDER, PARTLY, UNEVEN, why_sections
from trm_agent.report.why_tables import INDENT
from trm_agent.runs.failures import A_MALFORMED_CALL as MALFORMED

EMPTY: dict = {"run": [], "step": [], "category": []}
CLEAN, AFTER = "env/ending/h2", "env/ending_after_malformed/h2"
SLIP = "wrong answer: a slip"
GREEDY = {"env/val_success/greedy_h2": 0.5, "env/val_num_episodes/greedy_h2": 200}


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
    """Eight steps: slips 0.3 to 0.2, 0.2 more malformed at first, cuts 0.1 to 0.05, with a little noise."""
    noise = [0.0, 0.01]
    early = [row(n, 0.5 + noise[n % 2], 0.1, malformed=0.2 + 0.4 * noise[n % 2], **more) for n in range(1, 5)]
    return early + [row(n, 0.2, 0.05 + noise[n % 2], lucky=0.03, **more) for n in range(5, 9)]


def section(rows, index=EMPTY, config=None):
    (found,) = why_sections([Source(Path("a"), "a", "run", config or {}, metrics=rows)], index)
    return found


def test_each_failure_is_in_one_row_so_the_rows_add_up_to_the_change():
    account = account_of(risen())
    assert account is not None
    assert sum(part.whole.difference for part in account.causes) == pytest.approx(-account.success.difference)
    # means of 0.39 and 0.4, of 0.75 and 0.74
    assert (account.success.before, account.success.after) == (pytest.approx(39.5), pytest.approx(74.5))
    assert account.lucky.after == pytest.approx(3.0)
    told = [(part.ending, part.whole.before, part.whole.after) for part in account.causes]
    # of slips, 0.5 and 0.51 less the malformed 0.2 and 0.204
    slip, cut = (SLIP, pytest.approx(30.3), pytest.approx(20)), ("ran out of tokens", pytest.approx(10), 5.5)
    assert told == [(MALFORMED, pytest.approx(20.2), 0), slip, cut]


def test_the_words_name_the_causes_and_the_table_has_every_row():
    found = section(risen())
    answer, span, malformed, rest, *_ = found["sentences"]
    assert answer.startswith("Success of the training episodes rose by 35.0 points [34")
    assert "because “a malformed call” became rarer (-20.2 [" in answer
    assert "and “a slip” became rarer (-10.3 [" in answer
    assert span == "It went from 39.5 % (steps 1 to 4) to 74.5 % (steps 5 to 8)."
    # 20.2, 10.3 and 4.5 of 35 points
    assert malformed.startswith("“a malformed call” became rarer, 20.2 to 0.0 % of episodes, -20.2 [")
    assert ", 58 % [" in malformed
    assert "“ran out of tokens” became rarer, 10.0 to 5.5 % of episodes, -4.5 [" in rest
    (table,) = found["tables"]
    assert [cells[0] for cells in table["rows"]] == ["success", MALFORMED, SLIP, "ran out of tokens", "all failures"]
    assert [cells[4].partition(" [")[0] for cells in table["rows"]] == ["", "58 %", "29 %", "13 %", "100 %"]
    assert "0.0 to 3.0 % of episodes, +3.0" in table["about"]
    assert {"ran out of tokens", MALFORMED} <= {*table["explained"]}
    assert table["columns"][0] == "% of training episodes"
    assert len(table["columns"]) == 5


def test_a_fall_is_told_as_a_fall():
    rows = [{**each, "step": place} for place, each in enumerate(reversed(risen()), 1)]
    answer, span, malformed, *_ = section(rows)["sentences"]
    assert "fell by 35.0 points [34" in answer
    assert "because “a malformed call” became more frequent (+20.2 [" in answer
    assert span.startswith("It went from 74.5 %")
    assert malformed.startswith("“a malformed call” became more frequent")


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
    assert "by length of the task: horizon 2 39.5 to 74.5 %, +35.0 points [" in found["sentences"][1]


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


def test_few_steps_have_what_validation_tells_and_evaluations_no_section():
    rows = risen()
    (short,) = why_sections([Source(Path("a"), "a", "run", metrics=rows[:7])], EMPTY)
    assert [short["tables"], short["scope"]] == [[], ""]
    (told,) = short["sentences"]
    assert "takes at least 8 training steps" in told
    assert told.endswith("this run has 7 so far.")
    rows = [{"step": 0, **GREEDY, "env/val_success/greedy_h2": 0.2}, {**rows[0], **GREEDY}]
    assert "horizon 2 20.0 to 50.0 %, +30.0 [" in section(rows)["sentences"][1]
    assert why_sections([Source(Path("a"), "a", "run", metrics=[{"step": 0, **GREEDY}])], EMPTY) == []
    assert why_sections([Source(Path("a"), "a", "evaluation", metrics=rows)], EMPTY) == []


def validated(old, new, sampled_old=0.2, sampled_new=0.5, num=400):
    """The rise, with greedy and sampled validations before and after it."""

    def rates(greedy, sampled):
        found = {"env/val_success/greedy_h2": greedy, "env/val_num_episodes/greedy_h2": num}
        return found | {"env/val_success/h2": sampled, "env/val_num_episodes/h2": num}

    rows = risen()
    return [{"step": 0, **rates(old, sampled_old)}, *rows[:-1], {**rows[-1], **rates(new, sampled_new)}]


ALL_SURER = "all of the rise of sampled play, in training and validation, can be surer sampling."


@pytest.mark.parametrize(
    ("greedy", "words"),
    [
        ((0.3, 0.6), "rose by +30.0 [+23.3, +36.3] at horizon 2, which is skill."),
        ((0.6, 0.6), f"at horizon 2, not distinguishable from 0: {ALL_SURER}"),
        ((0.6, 0.5), f"changed by -10.0 [-16.8, -3.1] at horizon 2: {ALL_SURER}"),
    ],
)
def test_greedy_validation_tells_skill_from_sharper_sampling(greedy, words):
    answer, *others = section(validated(*greedy))["sentences"]
    assert answer.endswith(words)
    assert any(f"horizon 2 {100 * greedy[0]:.1f} to {100 * greedy[1]:.1f} %, " in text for text in others)
    # sampled success rose by 30 points
    told = "Surer sampling can be why sampled validation rose by more than greedy validation: "
    assert any(told in text for text in others) == (greedy[1] <= greedy[0])
    assert any(f"{told}all of +30.0 [" in text for text in others) == (greedy[1] < greedy[0])
    # the answer and what it rests on name one share of one thing
    assert not any("could give all" in text or "part of it" in text for text in (answer, *others))


def test_a_few_greedy_tasks_tell_nothing_and_none_say_how_to_have_some():
    few = section(validated(0.4, 0.5, num=20))["sentences"][0]
    assert few.endswith("whether skill rose or sampling only became surer is not shown.")
    assert "at horizon 2, not distinguishable from 0" in few
    assert "This run was not validated" in section(risen())["sentences"][-1]
    sampled = [{name: value for name, value in each.items() if "greedy" not in name} for each in validated(0, 0)]
    assert "validated by sampling alone" in section(sampled)["sentences"][-1]
    once = validated(0.4, 0.5)[1:]
    assert "cannot be told apart yet" in section(once)["sentences"][-1]


def test_a_validation_at_temperature_0_is_greedy_itself():
    config = {"actor_rollout_ref": {"rollout": {"val_kwargs": {"temperature": 0}}}}
    rows = [{name: value for name, value in each.items() if "greedy" not in name} for each in validated(0, 0)]
    assert section(rows, config=config)["sentences"][0].endswith("at horizon 2, which is skill.")


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
    answer, *_, held_out, greedy, sharpness = found["sentences"]
    assert answer.endswith(ALL_SURER)
    assert greedy.startswith(
        "Validation, greedy (always the likeliest token), 200 tasks paired, step 0 to step 8: horizon 2 60.0 to 60.0 %"
    )
    assert "rose by more than greedy validation: +30.0 [" in sharpness
    assert held_out.startswith(
        "Validation, sampled, 200 tasks paired, step 0 to step 8: horizon 2 20.0 to 50.0 %, +30.0 ["
    )
    assert "(“kind” -30.0 [" in held_out
    assert "at temperature 1.0" in found["scope"]


@pytest.mark.parametrize(("before", "is_told"), [(1.0, True), (0.98, False)])
def test_greedy_play_that_solved_all_from_the_start_had_nothing_to_learn(before, is_told):
    found = with_validations((0, 0.2, before), (8, 0.5, 1.0))
    told = "It solved all tasks of horizon 2 from the start: there, only surer sampling was left to gain."
    assert any(told in text for text in found["sentences"]) == is_told


def test_a_failure_that_became_more_frequent_is_said_to_go_against_the_rise():
    names = [f"t{number}" for number in range(200)]
    solved, slip, cut = (f"env/ending/h2/{name}" for name in ("solved", "mistake/kind/a_slip", "ran_out_of_tokens"))
    rows = [
        {"step": 0, "endings": {"h2": {solved: names[:40], slip: names[40:]}}},
        {"step": 8, "endings": {"h2": {solved: names[:100], slip: names[100:180], cut: names[180:]}}},
    ]
    (found,) = why_sections([Source(Path("a"), "a", "run", {}, metrics=risen(), validations=rows)], EMPTY)
    (told,) = [text for text in found["sentences"] if text.startswith("Validation, sampled")]
    assert "(“kind” -40.0 [" in told
    assert ", against it “ran out of tokens” +10.0 [" in told


def test_a_paired_interval_is_narrower_than_one_of_two_samples():
    found = with_validations((0, 0.2, 0.5), (8, 0.5, 0.56))
    # 12 of 200 tasks more and none fewer; unpaired, +6 points have an interval of about 10 to either side
    answer, *_, greedy, sharpness = found["sentences"]
    assert "rose by +6.0 [" in answer
    assert answer.endswith("The rest of the rise of sampled play, in training and validation, can be surer sampling.")
    assert "(“kind” -6.0 [" in greedy
    assert "+24.0 [" in sharpness


def test_a_greedy_validation_between_that_went_another_way_is_told():
    turned = "In between it fell at horizon 2 from step 0 to step 4, -10.0 ["
    unsteady = with_validations((0, 0.2, 0.5), (4, 0.3, 0.4), (8, 0.5, 0.6))["sentences"]
    assert turned in unsteady[-2]
    assert "at horizon 2, where in between it had gone the other way (-10.0 [" in unsteady[0]
    assert unsteady[0].endswith("too unsteady to be called skill.")
    assert "which is skill" not in unsteady[0]
    for share in (0.49, 0.7):
        found = with_validations((0, 0.2, 0.5), (4, 0.3, share), (8, 0.5, 0.6))
        assert "which is skill" in found["sentences"][0]
        assert not any("In between" in text for text in found["sentences"])
    back = with_validations((0, 0.2, 0.5), (4, 0.3, 0.7), (8, 0.5, 0.5))["sentences"][-2]
    assert "In between it rose at horizon 2 from step 0 to step 4, +20.0 [" in back


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
        rows.append({**named, f"{CLEAN}/mistake/a_kind/a_lapse": cut})
    found = section(rows)
    cause = next(text for text in found["sentences"] if text.startswith("“a kind”"))
    # 30.3 and 10, 20 and 5.5 percent
    assert cause.startswith("“a kind” as first mistake became rarer, 40.3 to 25.5 % of episodes")
    assert "In points: “a slip” -10.3 [" in cause
    names = [cells[0] for cells in found["tables"][0]["rows"]]
    members = [f"{INDENT}{SLIP}", f"{INDENT}wrong answer: a lapse"]
    assert names == ["success", MALFORMED, "a kind", *members, "all failures"]


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
