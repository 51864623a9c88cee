"""Roles and template variables: what is refused, where they come from, and that all makers of tokens use them."""

import pytest

from tests.episode.forms import FORMS
from trm_agent.episode import ChatSettings, chat_tokens
from trm_agent.episode.call_protocol import find_protocol, is_auto, resolved, shows_tools
from trm_agent.episode.chat_settings import check_variables


def run(env=None, data=None):
    return {"env": {"kwargs": {}, **(env or {})}, "data": data or {}}


def test_a_run_from_before_there_were_settings_has_the_defaults():
    assert ChatSettings.of_run(run()) == ChatSettings(("tool", "user"), {}, True)


def test_a_runs_settings_are_read():
    config = run(
        {"chat": {"roles": ["user"]}, "kwargs": {"protocol": "fenced"}},
        {"apply_chat_template_kwargs": {"enable_thinking": False}},
    )
    assert ChatSettings.of_run(config) == ChatSettings(("user",), {"enable_thinking": False}, False, call="")


@pytest.mark.parametrize("roles", [[], [""], ["user", "user"], ["assistant"], [3], "user"])
def test_roles_that_cannot_be_are_refused_with_the_field(roles):
    if roles == "user":  # one role alone is taken for what is meant
        assert ChatSettings.of_run(run({"chat": {"roles": roles}})).roles == ("user",)
        return
    with pytest.raises(ValueError, match=r"env.chat.roles: got .*; allowed: .*; give \[tool,user\]"):
        ChatSettings.of_run(run({"chat": {"roles": roles}}))


def test_a_role_that_no_template_names_is_refused_with_the_closest():
    chatml, glm = FORMS["qwen3_5"].tokenizer, FORMS["glm_4_5"].tokenizer
    with pytest.raises(ValueError, match=r"env.chat.roles: got 'usr'; allowed: tool, user, .*did you mean 'user'"):
        chat_tokens(chatml, ChatSettings(roles=("tool", "usr")))
    # a part of a word in the template is no role
    for part in ("systm", "syst", "use", "mess"):
        with pytest.raises(ValueError, match=rf"env.chat.roles: got '{part}'; allowed: tool, user"):
            chat_tokens(chatml, ChatSettings(roles=("tool", part)))
    with pytest.raises(ValueError, match=r"env.chat.roles: got 'ipython'; allowed"):
        chat_tokens(glm, ChatSettings(roles=("ipython",)))


def test_an_unknown_field_names_the_known_one():
    with pytest.raises(ValueError, match=r"env.chat.rolls: no such field; did you mean 'roles'"):
        ChatSettings.of_run(run({"chat": {"rolls": ["user"]}}))


@pytest.mark.parametrize("name", ["tools", "messages", "tokenize", "add_generation_prompt", "chat_template"])
def test_variables_that_are_set_for_each_message_are_refused(name):
    with pytest.raises(ValueError, match=rf"data.apply_chat_template_kwargs.{name}: got .*; allowed: variables"):
        ChatSettings.of_run(run(data={"apply_chat_template_kwargs": {name: 1}}))


def test_a_variable_that_the_template_does_not_have_is_refused_with_the_closest():
    qwen = FORMS["qwen3_5"].tokenizer
    check_variables([qwen], {"enable_thinking": False})
    with pytest.raises(ValueError, match=r"enable_thinkin: got false, .*did you mean 'enable_thinking'"):
        check_variables([qwen], {"enable_thinkin": False})
    # one of several models that are compared may know it alone
    check_variables([FORMS["mistral"].tokenizer, qwen], {"enable_thinking": False})


def test_the_templates_variables_reach_it():
    form = FORMS["qwen3_5"]
    assert chat_tokens(form.tokenizer).turn_prefix == "<think>\n"
    closed = chat_tokens(form.tokenizer, ChatSettings(template_kwargs={"enable_thinking": False}))
    assert closed.turn_prefix == ""
    assert form.tokenizer.decode(closed.prompt("", "go")).endswith("<think>\n\n</think>\n\n")


def test_auto_is_replaced_and_nothing_else():
    assert resolved({"protocol": "auto", "horizon": 2}, "arg_tags") == {"protocol": "arg_tags", "horizon": 2}
    assert resolved({"protocol": "tags"}, "arg_tags") == {"protocol": "tags"}
    assert resolved({}, "arg_tags") == {}
    assert [is_auto(each) for each in ({"protocol": "auto"}, {"protocol": "hermes"}, {})] == [True, False, False]
    assert [
        shows_tools(each) for each in ({}, {"protocol": "tags"}, {"protocol": "fenced"}, {"protocol": "hermes"})
    ] == [*(True, False, False, True)]


def test_what_auto_finds_does_not_depend_on_the_thoughts_switch():
    form = FORMS["qwen3_5"]
    assert find_protocol(form.tokenizer, {"enable_thinking": True}) == find_protocol(form.tokenizer)
