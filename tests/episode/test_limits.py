import math

import pytest

from trm_agent.episode import Limits


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_turns", 0),
        ("max_response_tokens", -1),
        ("max_turn_tokens", 2.5),
        ("max_tool_calls", True),
        ("max_observation_tokens", None),
        ("max_malformed_turns", 0),
        ("max_malformed_turns", True),
        ("max_malformed_turns", 1.5),
        ("max_prompt_tokens", 0),
        ("step_timeout_s", 0),
        ("episode_timeout_s", math.inf),
        ("generate_timeout_s", "60"),
        ("tool_time_s", 0),
        ("episode_tool_time_s", math.nan),
    ],
)
def test_a_bad_limit_is_refused_with_its_name_and_value(field, value):
    shown = {None: "null", True: "true"}.get(value, repr(value))
    with pytest.raises(ValueError, match=rf"limits\.{field}: got {shown}; allowed: "):
        Limits(**{field: value})


def test_limits_come_from_a_mapping():
    assert Limits.from_mapping({"max_turns": 3, "step_timeout_s": 2}) == Limits(max_turns=3, step_timeout_s=2)


def test_an_unknown_limit_is_refused_with_the_closest_name():
    with pytest.raises(ValueError, match=r"limits\.max_turn: no such field; did you mean 'max_turns'"):
        Limits.from_mapping({"max_turn": 3})
