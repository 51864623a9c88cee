"""No recipe writes right answers to every question of a set of reasoning-gym."""

import re

import pytest

from tests.envs.test_reasoning_gym import make
from trm_envs.tasks import reasoning_gym as bridge

pytestmark = pytest.mark.slow
pytest.importorskip("reasoning_gym")


def recipe(question: str, zero: str, one: str) -> str:
    """Return an expression of all the numbers, as zero, and of so many ones as the target says."""
    numbers = re.search(r"((?:\d+, )+\d+)", question)
    assert numbers
    (target, *_) = re.findall(r"\d+", question.replace(numbers[1], ""))
    return "+".join([f"({'+'.join(numbers[1].split(', '))})*{zero}", *[one] * int(target)])


@pytest.mark.parametrize(
    ("zero", "one"), [("False", "True"), ("(x-x)", "x/x"), ("sin(pi)", "(pi/pi)"), ("(E-E)", "E/E")]
)
def test_countdown_takes_no_number_that_nobody_counts(zero: str, one: str) -> None:
    env = make(dataset="countdown", horizon=1, split="all")
    for seed in range(3):
        question, _ = env.reset(seed=seed)
        assert env.step(env.answer(recipe(question, zero, one)))[1] == 0.0, question


@pytest.mark.parametrize("text", ["12//5", "12**5", "12 % 5", "12.0", "12e0", "12_0", "12j", "1²", "١٢", "12\n+5"])
def test_countdown_takes_no_operator_that_the_question_does_not_name(text: str) -> None:
    form = bridge._FORMS["countdown"]
    assert form.fullmatch("(12 + 5)*-3/4")
    assert not form.fullmatch(text)


def test_countdown_takes_its_own_answers() -> None:
    env = make(dataset="countdown", horizon=1, split="all")
    for seed in range(20):
        env.reset(seed=seed)
        assert env.step(env.solution())[1] == 1.0


def test_the_scorer_of_countdown_would_take_the_recipe() -> None:
    """Else the form is no longer needed."""
    from reasoning_gym import create_dataset

    made = create_dataset("countdown", seed=5, size=3)
    for index in range(3):
        entry = made[index]
        numbers, target = entry["metadata"]["numbers"], entry["metadata"]["target"]
        answer = "+".join([f"({'+'.join(map(str, numbers))})*False", *["True"] * target])
        assert made.score_answer(answer, entry) == 1.0


def test_the_scorer_of_propositional_logic_would_take_its_premises() -> None:
    """Else the set need not be refused."""
    from reasoning_gym import create_dataset

    made = create_dataset("propositional_logic", seed=5, size=5)
    for index in range(5):
        answer, *others = made[index]["metadata"]["premises"]
        for premise in others:
            answer = f"({answer} ∧ {premise})"
        assert made.score_answer(answer, made[index]) == 1.0


@pytest.mark.parametrize("name", bridge.ONE_ANSWER_FITS_ALL)
def test_a_set_in_which_one_answer_is_always_right_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"dataset: got '{name}', whose own scorer takes .*; take another one"):
        make(dataset=name)


def test_the_refused_sets_still_take_one_answer_for_every_question() -> None:
    from reasoning_gym import create_dataset

    for name, text in {"coin_flip": "0", "game_of_life_halting": "?", "puzzle24": "6 * 4 * 1 * 1"}.items():
        made = create_dataset(name, seed=5, size=5)
        assert [made.score_answer(text, made[index]) for index in range(5)] == [1.0] * 5, name
