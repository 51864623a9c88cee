"""Why success changed: the account adds up, and the words claim no more than the intervals."""

from pathlib import Path

import pytest

from trm_agent.report.account import account_of
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
