"""Validations, each task paired with itself, in the words of why success changed."""

from pathlib import Path

import pytest

from tests.report.test_why import ALL_SURER, EMPTY, risen
from trm_agent.report.held_out import NO_ENDINGS
from trm_agent.report.sources import Source
from trm_agent.report.why import why_sections


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
