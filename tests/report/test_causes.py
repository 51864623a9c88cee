"""Each failure has one cause, a malformed call whatever ending followed it; each change has one interval."""

from pathlib import Path

from tests.report.test_why import AFTER, CLEAN, EMPTY, SLIP, risen, section
from trm_agent.report.account import account_of
from trm_agent.report.results import result_table
from trm_agent.report.sources import Source
from trm_agent.report.why import why_sections
from trm_agent.report.why_tables import INDENT
from trm_agent.runs.failures import A_MALFORMED_CALL as MALFORMED


def test_a_malformed_call_that_ends_otherwise_later_is_the_same_cause():
    """Of each step 0.2 fail after a malformed call: at first with a slip, later without tokens."""
    rows = []
    for each in risen():
        early, malformed = each["step"] < 5, 0.2 + 0.01 * (each["step"] % 4)
        own = {f"{CLEAN}/mistake/a_kind/a_slip": 0.3 if early else 0.1, f"{CLEAN}/ran_out_of_tokens": 0.0}
        own[f"{AFTER}/mistake/a_kind/a_slip" if early else f"{AFTER}/ran_out_of_tokens"] = malformed
        noise = 0.01 * (each["step"] % 2)
        own[f"{CLEAN}/mistake/a_kind/a_slip"] += noise
        solved = 1 - sum(own.values())
        rows.append({"step": each["step"], "env/success": solved, **own, f"{CLEAN}/solved": solved})
    found = section(rows)
    table = {name: cells for name, *cells in found["tables"][0]["rows"]}
    members = [f"{INDENT}ending: a kind", f"{INDENT}ending: ran out of tokens"]
    assert [*table] == ["success", SLIP, MALFORMED, *members, "ran out of tokens", "all failures"]
    assert not any("ran out of tokens" in text or "more than all of it" in text for text in found["sentences"])
    assert "because “a slip” became rarer (-20.0 [" in found["sentences"][0]
    assert table["ran out of tokens"][:2] == ["0.0", "0.0"]
    # one ending is the cause itself
    one = [{name.replace("mistake/a_kind/a_slip", "x") if AFTER in name else name: v for name, v in each.items()}
           for each in rows[:4]]  # fmt: skip
    late = [{name.replace("ran_out_of_tokens", "x"): v for name, v in each.items()} for each in rows[4:]]
    names = [name for name, *_ in section([*one, *late])["tables"][0]["rows"]]
    assert MALFORMED in names
    assert not any("ending:" in name for name in names)


def test_solving_after_a_malformed_call_is_a_success_alone():
    rows = [{**each, f"{AFTER}/solved": each[f"{CLEAN}/solved"], f"{CLEAN}/solved": 0.0} for each in risen()]
    assert [part.ending for part in account_of(rows).causes] == [MALFORMED, SLIP, "ran out of tokens"]
    assert account_of(rows).success == account_of(risen()).success


def test_examples_of_a_malformed_call_are_failures_with_one_and_of_the_others_failures_without():
    index = {"run": [0] * 5, "step": [1, 1, 1, 8, 8], "malformed": [1, 1, 0, 2, 0]}
    index["category"] = ["solved", SLIP, SLIP, "ran out of tokens", SLIP]
    assert section(risen(), index)["tables"][0]["examples"] == {MALFORMED: [1, 3], SLIP: [2, 4]}
    # the endings that followed have no examples and no meaning of their own
    rows = [{**each, f"{AFTER}/x": 0.1, f"{CLEAN}/solved": each[f"{CLEAN}/solved"] - 0.1} for each in risen()]
    (table,) = section(rows, index)["tables"]
    assert f"{INDENT}ending: a slip" in [name for name, *_ in table["rows"]]
    assert table["examples"] == {MALFORMED: [1, 3], SLIP: [2, 4]}
    assert not any("ending" in name for name in table["explained"])


def test_the_results_and_the_words_have_one_interval_of_a_change():
    found = {"env/val_success/h2": 0.2, "env/val_num_episodes/h2": 200}
    rows = [{"step": 0, **found}, *risen()]
    rows[-1] |= found | {"env/val_success/h2": 0.5}
    names = [f"t{number}" for number in range(200)]
    ends = ((0, 40), (8, 100))
    played = [
        {"step": step, "endings": {"h2": {f"{CLEAN}/solved": names[:cut], f"{CLEAN}/x": names[cut:]}}}
        for step, cut in ends
    ]
    source = Source(Path("a"), "a", "run", {}, metrics=rows, validations=played)
    table = result_table([source])
    change = table["rows"][0][-1]
    assert change.startswith("+30.0 [")
    (words,) = why_sections([source], EMPTY)
    assert any(f"20.0 to 50.0 %, {change}" in text for text in words["sentences"])
    assert table["about"].endswith("paired: the same tasks were played both times.")
    alone = result_table([Source(Path("a"), "a", "run", {}, metrics=rows)])
    assert alone["rows"][0][-1] != change
    assert "unpaired" in alone["about"]


def test_interference_in_between_is_told_of_causes_not_of_what_followed_a_malformed_call():
    """Malformed calls are as frequent throughout; in between, the episodes run out of tokens after them."""
    rows = []
    for n in range(1, 25):
        after = "ran_out_of_tokens" if 8 < n < 17 else "mistake/a_slip"
        own = {
            f"env/ending_after_malformed/h2/{after}": 0.2 + 0.01 * (n % 2),
            "env/ending/h2/mistake/a_slip": 0.4 if n < 15 else 0.2,
        }
        own["env/ending/h2/mistake/a_slip"] += 0.01 * (n % 2)
        solved = 1 - sum(own.values())
        rows.append({"step": n, "env/success": solved, **own, "env/ending/h2/solved": solved})
    assert not any("In between" in text for text in section(rows)["sentences"])
    for each in rows[8:16]:
        each["env/ending_after_malformed/h2/ran_out_of_tokens"] += 0.2
        each["env/ending/h2/solved"] -= 0.2
    told = "In between: “a malformed call” rose to 40.4 % of episodes in steps 10 to 14 (20.5 % before, 20.5 % after)."
    assert told in section(rows)["sentences"]
