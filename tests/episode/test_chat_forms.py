"""The solver's trajectory through chat templates of six forms, with and without a thought that the prompt opens."""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Sequence
from typing import Any

import gymnasium
import pytest

import trm_envs  # noqa: F401  (registers the environments)
from tests.episode.forms import FORMS, R1_DISTILL, Form
from trm_agent.episode import ChatSettings, ChatTokens, Episode, Generation, Limits, chat_tokens, run_episode
from trm_agent.episode.call_protocol import find_protocol
from trm_agent.episode.template import CALL_ID
from trm_envs.protocols import PROTOCOLS

ENVS = {
    "chain": ("trm/ChainMath-v0", {"horizon": 3}),
    "python": ("trm/PythonMath-v0", {"horizon": 2, "sandbox": "unsafe"}),
    # answers every turn as a user
    "long": ("trm/LongExecution-v0", {"horizon": 2}),
}
# what a model of each form writes before it speaks: after `<think>` in the prompt, and without it
OPENED = {"glm_4_5": "I look.</think>\n"}
CLOSED = {"glm_4_5": "\n<think></think>\n"}
LIMITS = Limits(max_turn_tokens=4096, max_response_tokens=65536, max_observation_tokens=2048)


class SolverGenerator:
    """The environment's solver as a model of a form: it closes the open thought, speaks, and ends its turn."""

    def __init__(self, form: Form, chat: ChatTokens, before: str) -> None:
        self.form, self.chat, self.before = form, chat, before
        self.env: Any = None
        self.texts: list[str] = []
        self.turns: list[list[int]] = []
        self.prompts: list[list[int]] = []

    def make(self, env_id: str, kwargs: dict[str, Any]) -> Any:
        self.env = gymnasium.make(env_id, **kwargs)
        return self.env

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Generation:
        env, tokenizer = self.env.unwrapped, self.form.tokenizer
        said = env.solution()
        role = "tool" if env.protocol.parse(said, env._tools).calls else "user"
        end = tokenizer.convert_tokens_to_ids(self.form.ends[role])
        ids = [*tokenizer.encode(self.before + said, add_special_tokens=False), end]
        self.texts.append(said)
        self.turns.append(ids)
        self.prompts.append(list(prompt_ids))
        return Generation(ids, [-0.5] * len(ids), True)


def played(form: Form, name: str, opened: bool, protocol: str) -> tuple[Episode, SolverGenerator]:
    with_tools = PROTOCOLS[protocol].template_shows_tools
    settings = ChatSettings(template_kwargs=form.opened if opened else form.closed, with_tools=with_tools)
    chat = chat_tokens(form.tokenizer, settings)
    assert chat.turn_prefix == (form.prefix if opened else "")
    generator = SolverGenerator(
        form, chat, OPENED.get(form.name, "I look.\n</think>\n\n") if opened else CLOSED.get(form.name, "")
    )
    env_id, kwargs = ENVS[name]

    def make() -> Any:
        return generator.make(env_id, {**kwargs, "protocol": protocol})

    return asyncio.run(run_episode(make, generator, chat, LIMITS, env_id=env_id, seed=3)), generator


def conversation(episode: Episode, generator: SolverGenerator) -> list[dict[str, Any]]:
    """The messages of an episode, thoughts in the assistant's content."""
    env = generator.env.unwrapped
    messages = [{"role": "system", "content": env.system_prompt}, {"role": "user", "content": first_message(env)}]
    for turn in episode.turns:
        messages.append({"role": "assistant", "content": generator.chat.turn_prefix + turn.text})
        if turn.observation_span is not None:
            answer = {"role": turn.role, "content": turn.observation}
            messages.append({**answer, **({"tool_call_id": CALL_ID} if turn.role == "tool" else {})})
    return messages


def first_message(env: Any) -> str:
    fresh = gymnasium.make(env.spec.id, **env.spec.kwargs)
    return fresh.reset(seed=3)[0]


def rendered(form: Form, opened: bool, messages: Sequence[dict[str, Any]], tools: Any) -> str:
    """The conversation as the template writes it, or by pieces for Mistral's, which takes no results without calls."""
    variables = form.opened if opened else form.closed
    if form.name != "mistral":
        return form.tokenizer.apply_chat_template(list(messages), tools=tools or None, tokenize=False, **variables)
    text = form.tokenizer.apply_chat_template(list(messages[:2]), tokenize=False)
    for message in messages[2:]:
        content = message["content"]
        text += {
            "assistant": f"{content}</s>",
            "tool": f'[TOOL_RESULTS]{{"content": {content}, "call_id": "{CALL_ID}"}}[/TOOL_RESULTS]',
            "user": f"[INST]{content}[/INST]",
        }[message["role"]]
    return text


def protocols(form: Form) -> list[str]:
    return [form.protocol] if form.protocol else ["tags"]


ROUND_TRIPS = [
    pytest.param(form, name, opened, protocol, id=f"{form.name}-{name}-{'open' if opened else 'closed'}-{protocol}")
    for form in FORMS.values()
    for name in ENVS
    for opened in (True, False)
    for protocol in (*protocols(form), *(["fenced"] if name == "python" else []))
]


@pytest.mark.parametrize(("form", "name", "opened", "protocol"), ROUND_TRIPS)
def test_the_solvers_trajectory_round_trips_with_its_tokens(form, name, opened, protocol):
    episode, generator = played(form, name, opened, protocol)
    assert (episode.success, episode.reward, episode.error) == (True, 1.0, None)
    env, ids = generator.env.unwrapped, episode.response_ids
    # what was sampled stands in the response verbatim, and nothing else is masked in
    spans = [turn.token_span for turn in episode.turns]
    assert [ids[start:stop] for start, stop in spans] == generator.turns
    inside = [any(start <= position < stop for start, stop in spans) for position in range(len(ids))]
    assert episode.response_mask == inside
    # each prompt was the context so far
    assert generator.prompts[-1] == [*episode.prompt_ids, *ids[: spans[-1][0]]]
    # the environment reads of each turn what the solver meant
    for turn, said in zip(episode.turns, generator.texts, strict=True):
        seen = env.protocol.parse(generator.chat.turn_prefix + turn.text, env._tools)
        assert seen == env.protocol.parse(said, env._tools)
        assert seen.calls or seen.answer
    # the context is the template's own text
    text = form.tokenizer.decode([*episode.prompt_ids, *ids[:-1]], clean_up_tokenization_spaces=False)
    tools = env.tool_schemas
    whole = rendered(form, opened, conversation(episode, generator), tools)
    if form.name in ("qwen3_5", "glm_4_5", "nemotron_3") and any(turn.role == "user" for turn in episode.turns[:-1]):
        # these drop thoughts before the last user message: without them the two agree
        whole, text = (re.sub(r"<think>.*?</think>\s*", "", each, flags=re.DOTALL) for each in (whole, text))
        if form.name == "glm_4_5":
            whole, text = (each.replace("<|assistant|>\n", "<|assistant|>") for each in (whole, text))
    assert whole.startswith(text)
    assert len(whole) - len(text) <= len(form.ends["user"]) + 1


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_auto_is_the_protocol_that_reads_the_templates_own_calls(form):
    if form.protocol:
        assert find_protocol(form.tokenizer, form.closed) == find_protocol(form.tokenizer, form.opened) == form.protocol
        return
    with pytest.raises(ValueError, match=r"tokenizer.chat_template: writes a tool call as .*trmprobetool") as caught:
        find_protocol(form.tokenizer)
    for part in ("hermes", "function_tags", "arg_tags", "protocol=tags", "protocol=fenced"):
        assert part in str(caught.value)


def changed(form: Form, *pairs: tuple[str, str]) -> Any:
    """The form's tokenizer with another template."""
    template = form.template
    for old, new in pairs:
        assert old in template, old
        template = template.replace(old, new)
    tokenizer = copy.copy(form.tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def test_auto_needs_a_template_that_shows_the_tools():
    with pytest.raises(ValueError, match="does not show the tools"):
        find_protocol(changed(FORMS["chatml_json"], ("tool | tojson", "''")))


def test_auto_refuses_a_template_that_writes_no_calls():
    with pytest.raises(ValueError, match="writes no tool calls"):
        find_protocol(changed(FORMS["chatml_json"], ("message.tool_calls or []", "[]")))


def test_auto_finds_json_calls_whose_arguments_must_be_text():
    strict = changed(FORMS["chatml_json"], ("call.function.arguments | tojson", "'' + call.function.arguments"))
    assert find_protocol(strict) == "hermes"


def test_a_role_tag_that_was_sampled_is_not_repeated_and_a_wrong_one_stays_before_the_right_one():
    form = FORMS["glm_4_5"]
    chat = ChatTokens(form.tokenizer)
    user, observation = form.tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"])
    assert {user, observation} <= set(chat.stop_token_ids)
    for role, own, other in (("tool", observation, user), ("user", user, observation)):
        assert chat.closes_turn([5, own], role)
        assert not chat.closes_turn([5, other], role)
        whole = chat.observation(role, "five", model_turn_finished=False)
        assert whole[0] == own
        assert chat.observation(role, "five", model_turn_finished=True) == whole[1:]
    assert chat.decode([*form.tokenizer.encode("hi"), observation]) == "hi"


def test_a_model_that_ends_its_turns_with_the_other_roles_tag_still_solves_the_task():
    form = FORMS["glm_4_5"]
    swapped = Form(**{**form.__dict__, "ends": {"tool": form.ends["user"], "user": form.ends["tool"]}})
    episode, generator = played(swapped, "chain", False, "arg_tags")
    assert episode.success
    text = form.tokenizer.decode(episode.response_ids)
    assert text.count("<|user|><|observation|>\n<tool_response>") == len(episode.turns) - 1
    assert [episode.response_ids[start:stop] for start, stop in (turn.token_span for turn in episode.turns)] == (
        generator.turns
    )


def test_a_thought_that_is_never_closed_is_neither_call_nor_answer():
    form = FORMS["qwen3_5"]
    generator = SolverGenerator(form, ChatTokens(form.tokenizer), "maybe ")
    env_id, kwargs = ENVS["chain"]
    episode = asyncio.run(
        run_episode(
            lambda: generator.make(env_id, {**kwargs, "protocol": "function_tags"}),
            generator,
            generator.chat,
            Limits(max_turns=2, max_turn_tokens=4096, max_response_tokens=65536),
            env_id=env_id,
            seed=3,
        )
    )
    assert (episode.num_tool_calls, episode.success, str(episode.stop_reason)) == (0, False, "max_turns")


def test_a_role_after_which_the_prompt_opens_no_thought_is_refused_and_can_be_left_out():
    with pytest.raises(ValueError, match="not append-only for 'tool' messages: the model's turn begins with ''"):
        ChatTokens(R1_DISTILL.tokenizer)
    chat = ChatTokens(R1_DISTILL.tokenizer, roles=("user",))
    assert chat.turn_prefix == "<think>\n"
    assert R1_DISTILL.tokenizer.decode(chat.observation("tool", "5", model_turn_finished=True)) == (
        f"{R1_DISTILL.special[2]}5{R1_DISTILL.special[3]}<think>\n"
    )


def test_tools_that_move_are_refused_only_where_the_template_gets_them():
    with pytest.raises(ValueError, match=r"not append-only for 'user' messages.*env.kwargs.protocol=tags"):
        ChatTokens(FORMS["mistral"].tokenizer)
    assert ChatTokens(FORMS["mistral"].tokenizer, with_tools=False).turn_prefix == ""


def test_a_template_that_names_the_called_tool_in_its_answer_is_refused_for_that_role():
    named = changed(
        FORMS["mistral"],
        ('"call_id": "', '"name": "\' + messages[loop.index0 - 1].tool_calls[0].function.name + \'", "call_id": "'),
    )
    with pytest.raises(ValueError, match="'tool' messages: it holds the name of the tool that was called"):
        ChatTokens(named, with_tools=False)


def test_a_template_in_which_nothing_ends_a_turn_is_refused_with_what_is_allowed():
    endless = changed(FORMS["chatml_json"], ("<|im_end|>\\n", "\\n"))
    with pytest.raises(
        ValueError, match=r"tokenizer.chat_template: closes .*no turn would end; allowed: an end-of-turn"
    ):
        ChatTokens(endless)
