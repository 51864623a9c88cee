"""`trm_fields`: the one form of a refusal, the closest name, and fields that say what they allow."""

from dataclasses import dataclass

import pytest

from trm_fields import (
    COUNT,
    Flag,
    Free,
    Number,
    OneOf,
    Several,
    Text,
    between,
    build,
    check_settings,
    closest,
    refuse,
    refuse_name,
    same_as,
    section,
    setting,
    settings_of,
)


def test_a_typo_gets_the_closest_name_and_the_list():
    assert closest("trn", ["trm", "ppo_clip"]) == "did you mean 'trm'? Known: 'ppo_clip', 'trm'"


def test_case_does_not_matter():
    assert closest("CHAINMATH", ["trm/ChainMath-v0", "ChainMath"]).startswith("did you mean 'ChainMath'")


def test_a_name_far_from_all_gets_the_list_alone():
    assert closest("zzz", ["trm"]) == "Known: 'trm'"


def test_no_names_at_all():
    assert closest("x", []) == "Known: none"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3, "3"), ("3", "'3'"), (None, "null"), (True, "true"), (False, "false"), ("x" * 400, "'" + "x" * 299 + "...")],
)
def test_a_refusal_holds_field_value_allowed_values_and_remedy(value, shown):
    with pytest.raises(ValueError, match=r"^a\.b: got ") as caught:
        refuse("a.b", value, "a number", "give one")
    assert str(caught.value) == f"a.b: got {shown}; allowed: a number; give one"


def test_a_refusal_may_say_why():
    with pytest.raises(ValueError, match=r"^a: got 2, above cap=1; allowed: at most the cap; lower it$"):
        refuse("a", 2, "at most the cap", "lower it", because="above cap=1")


def test_an_unknown_field_is_answered_with_its_neighbour_or_a_field_elsewhere():
    with pytest.raises(ValueError, match=r"^run\.rooot: no such field; did you mean 'root'\? Known: 'name', 'root'$"):
        refuse_name("run.rooot", ["root", "name"])
    with pytest.raises(ValueError, match=r"did you mean 'env\.limits\.max_turns'\? Known: 'limits'$"):
        refuse_name("env.max_turns", ["limits"], ["env.limits.max_turns"])


@pytest.mark.parametrize(
    ("allowed", "good", "bad", "words"),
    [
        (COUNT, 1, 0, "a whole number of 1 or more"),
        (COUNT, 1, 1.0, "a whole number of 1 or more"),
        (between(0, 1), 0.5, float("nan"), "a finite number from 0 to 1"),
        (between(1, 3, int), 3, True, "a whole number from 1 to 3"),
        (Number(optional=True), None, "x", "null or a finite number"),
        (OneOf(("cpu", "gpu")), "cpu", "tpu", "`cpu`, `gpu`"),
        (OneOf(("local",), "an address"), "local", ["local"], "`local`, or an address"),
        (Flag(), False, 0, "true or false"),
        (Flag(optional=True), None, "yes", "null, true or false"),
        (Text(), "", None, "text"),
        (Text(optional=True), None, 1, "null or text"),
        (Text(without="/"), "a-b", "a/b", "text without `/`"),
        (Text(filled=True), "a", " ", "text, not empty"),
        (Text(optional=True, filled=True), None, "", "null or text, not empty"),
        (Several(COUNT), (1, 2), [], "a list; each item: a whole number of 1 or more"),
        (Free(), {"any": 1}, [1], "names and values"),
    ],
)
def test_a_set_of_values_takes_its_own_and_refuses_others_in_its_own_words(allowed, good, bad, words):
    allowed.check("a", good)
    with pytest.raises(ValueError, match=r"^a: got ") as caught:
        allowed.check("a", bad)
    assert f"; allowed: {words}; " in str(caught.value)


def test_an_item_of_a_list_is_named():
    with pytest.raises(ValueError, match=r"^a\[1\]: got 0"):
        Several(COUNT).check("a", [1, 0])


def test_a_number_in_quotes_is_told_to_lose_them():
    with pytest.raises(ValueError, match=r"write it without quotes$"):
        COUNT.check("a", "3")


@dataclass(frozen=True)
class Inner:
    count: int = setting(3, COUNT, "A count.")

    def __post_init__(self):
        check_settings(self, "inner")


@dataclass(frozen=True)
class Outer:
    inner: Inner = section(lambda: Inner(count=5))
    again: int = same_as(Inner, "count")
    names: list = setting([], Several(Text()), "Names.")


def test_settings_are_listed_with_the_defaults_that_hold_where_they_stand():
    found = {item.name: item.default for item in settings_of(Outer, "x")}
    assert found == {"x.inner.count": 5, "x.again": 3, "x.names": []}
    assert Outer().names is not Outer().names


def test_a_dataclass_is_built_from_fields_that_it_has_and_values_that_it_allows():
    assert build(Inner, {"_target_": "x", "count": 4}, "inner") == Inner(4)
    with pytest.raises(ValueError, match=r"^inner\.cuont: no such field; did you mean 'count'"):
        build(Inner, {"cuont": 4}, "inner")
    with pytest.raises(ValueError, match=r"^inner\.count: got 0; .*; give one, such as 3$"):
        build(Inner, {"count": 0}, "inner")
