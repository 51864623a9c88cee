"""Templates that leave out tools, system prompt or tool results: what they hide is told where it is shown."""

import asyncio
import copy

import gymnasium
import pytest

from tests.episode.forms import FORMS
from trm_agent.episode import ChatSettings, ChatTokens, Generation, Limits, chat_tokens, run_episode
from trm_agent.episode.call_protocol import find_protocol
from trm_agent.episode.chat_settings import told_otherwise
from trm_agent.episode.fallback import SYSTEM, TOOL_ROLE, TOOLS, left_out

CHATML = FORMS["chatml_json"]
PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REFUSING = (
    "{%% for message in messages %%}{%% if message.role == '%s' %%}{{ raise_exception('no such role') }}{%% endif %%}"
    "{%% endfor %%}"
)
SKIPPING = "{%% for message in messages if message.role != '%s' %%}"
TEMPLATES = {
    "no tools": (PLAIN, [TOOLS]),
    "refuses system": (REFUSING % "system" + PLAIN, [SYSTEM, TOOLS]),
    "skips system": (PLAIN.replace("{% for message in messages %}", SKIPPING % "system"), [SYSTEM, TOOLS]),
    "refuses tool": (REFUSING % "tool" + PLAIN, [TOOLS, TOOL_ROLE]),
    "skips tool": (PLAIN.replace("{% for message in messages %}", SKIPPING % "tool"), [TOOLS, TOOL_ROLE]),
    "user and assistant alone": (REFUSING % "tool" + REFUSING % "system" + PLAIN, [SYSTEM, TOOLS, TOOL_ROLE]),
}


def tokenizer_of(template):
    tokenizer = copy.copy(CHATML.tokenizer)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", FORMS)
def test_the_templates_of_open_models_leave_nothing_out(name):
    assert left_out(FORMS[name].tokenizer, {}) == []


@pytest.mark.parametrize(("template", "missing"), TEMPLATES.values(), ids=list(TEMPLATES))
def test_a_model_is_told_all_that_its_template_leaves_out_and_solves_the_task(template, missing):
    tokenizer = tokenizer_of(template)
    assert left_out(tokenizer, {}) == missing
    assert find_protocol(tokenizer, {}, describes_tools=True) == "hermes"
    chat = chat_tokens(tokenizer)
    env = gymnasium.make("trm/ChainMath-v0", protocol="hermes")

    class Solver:
        async def generate(self, prompt_ids, max_tokens):
            ids = [*tokenizer.encode(env.unwrapped.solution(), add_special_tokens=False), chat.end_of_turn_id]
            return Generation(ids, [-0.5] * len(ids), True)

    episode = asyncio.run(
        run_episode(lambda: env, Solver(), chat, Limits(max_turn_tokens=4096), env_id="trm/ChainMath-v0", seed=3)
    )
    assert (episode.success, episode.error) == (True, None)
    prompt, response = tokenizer.decode(episode.prompt_ids), tokenizer.decode(episode.response_ids)
    assert prompt.count(env.unwrapped.system_prompt) == 1
    assert prompt.count('"name": "calculator"') == 1
    assert '<tool_call>\n{"name": "function_name", "arguments": {"argument_name": "value"}}\n</tool_call>' in prompt
    for turn in episode.turns[:-1]:
        assert f"{turn.observation}<|im_end|>" in response
    assert ("<|im_start|>tool" in response) == (TOOL_ROLE not in missing)
    assert ("<|im_start|>system" in prompt) == (SYSTEM not in missing)


def test_people_are_told_where_each_part_goes():
    told = told_otherwise(tokenizer_of(TEMPLATES["user and assistant alone"][0]), ChatSettings())
    assert told == [
        "the chat template shows no system message: the system prompt opens the first user message",
        "the chat template shows no tools: the system prompt describes them and the form of a call",
        "the chat template shows no tool role: a tool's result is told as user",
    ]
    assert told_otherwise(CHATML.tokenizer, ChatSettings()) == []


def test_what_the_template_need_not_show_is_not_missed():
    settings = ChatSettings(roles=("user",), with_tools=False)
    assert told_otherwise(tokenizer_of(REFUSING % "tool" + PLAIN), settings) == []


@pytest.mark.parametrize(("template", "missing"), TEMPLATES.values(), ids=list(TEMPLATES))
def test_refuse_names_what_is_left_out_and_the_remedy(template, missing):
    with pytest.raises(
        ValueError, match=rf"env.chat.fallback: got 'refuse', but .* no {', no '.join(missing)}; allowed: des"
    ):
        chat_tokens(tokenizer_of(template), ChatSettings(fallback="refuse"))
    with pytest.raises(ValueError, match=r"writes no tool calls|cannot render the roles"):
        find_protocol(tokenizer_of(template))
    chat_tokens(CHATML.tokenizer, ChatSettings(fallback="refuse"))


def test_the_form_of_the_call_is_that_of_the_environments_protocol():
    env = {"kwargs": {"protocol": "arg_tags"}}
    settings = ChatSettings.of_run({"env": env, "data": {}})
    tokenizer = tokenizer_of(PLAIN)
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    prompt = tokenizer.decode(chat_tokens(tokenizer, settings).prompt("Help.", "Go.", tools))
    assert (
        "<tool_call>function_name\n<arg_key>argument_name</arg_key>\n<arg_value>value</arg_value>\n</tool_call>"
        in prompt
    )
    with pytest.raises(ValueError, match="different forms of a call; set the same protocol for all"):
        chat_tokens(tokenizer, ChatSettings(call=""))


def test_text_of_an_environment_stays_text_in_a_described_prompt():
    tokenizer = tokenizer_of(REFUSING % "system" + PLAIN)
    ids = chat_tokens(tokenizer).prompt("Help <|im_end|>", "Go <|im_start|>.", [{"function": {"name": "<|im_end|>"}}])
    special = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>")]
    assert [ids.count(token) for token in special] == [2, 1]


def test_without_settings_a_template_gets_what_it_is_given():
    assert "calculator" not in CHATML.tokenizer.decode(ChatTokens(tokenizer_of(PLAIN)).prompt("", "Go.", []))


@pytest.mark.parametrize("value", ["", "no", None, 3])
def test_another_treatment_is_refused(value):
    with pytest.raises(ValueError, match=r"env.chat.fallback: got .*; allowed: `describe`, `refuse`"):
        ChatSettings(fallback=value)
