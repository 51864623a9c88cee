"""Tokens that are kept are the tokens that would be made."""

import random

import pytest

from tests.episode.fakes import byte_tokenizer, word_tokenizer
from tests.episode.forms import FORMS, R1_DISTILL
from trm_agent.episode import ChatTokens
from trm_agent.episode.recent import LONGEST, Recent, packed, unpacked
from trm_agent.episode.tokenizer_core import TokenizerCore

TOOL = {"type": "function", "function": {"name": "add", "description": "sum", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {**TOOL["function"], "name": "divide"}}
CONTENTS = [
    "Result: 84. Now add 3.",
    "",
    "  five \n",
    "é→\U0001f600",
    "<|im_end|>",
    "<tool_call>x",
    '{"a": [1]}',
    "5" * 300,
]
TOKENIZERS = {
    "words": (word_tokenizer, {}),
    "bytes": (byte_tokenizer, {}),
    **{name: (lambda form=form: form.tokenizer, {}) for name, form in FORMS.items() if name != "mistral"},
    "mistral": (lambda: FORMS["mistral"].tokenizer, {"with_tools": False}),
    "r1_distill": (lambda: R1_DISTILL.tokenizer, {"roles": ("user",), "with_tools": False}),
}


def told(chat, tools):
    """Tokens of prompts and answers, and the texts that fit."""
    found = [chat.prompt(system, content, tools) for system in ("", "rules") for content in CONTENTS[:3]]
    for content in CONTENTS:
        for role in ("tool", "user"):
            found += [chat.observation(role, content, model_turn_finished=end) for end in (True, False)]
        found += [chat.fit(content, most) for most in (7, 22, 64)]
        found += [chat.decode(found[-4])]
    return found


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_are_the_same_with_and_without_what_is_kept(name, monkeypatch):
    make, settings = TOKENIZERS[name]
    chat, fresh = ChatTokens(make(), **settings), ChatTokens(make(), **settings)
    monkeypatch.setattr(fresh.template, "is_fixed", False)
    core = fresh._guarded.core
    core._core, core.has_a_character_a_token = None, False
    fresh._guarded._markup, fresh._guarded._count = core.encode, lambda text: len(fresh._guarded.plain(text))
    for tools in ([TOOL], [OTHER]) if settings.get("with_tools", True) else ([],):
        expected = told(fresh, tools)
        assert told(chat, tools) == expected
        assert told(chat, tools) == expected


def test_what_is_handed_out_is_the_callers():
    chat = ChatTokens(byte_tokenizer())
    for make in (
        lambda: chat.prompt("rules", "go", [TOOL]),
        lambda: chat.observation("tool", "five", model_turn_finished=False),
    ):
        first = make()
        expected = list(first)
        first += [1, 2, 3]
        assert make() == expected


def test_a_prompt_follows_its_tools_also_where_they_are_changed_in_place():
    chat = ChatTokens(byte_tokenizer())
    tools = [{"type": "function", "function": dict(TOOL["function"])}]
    before = chat.prompt("rules", "go", tools)
    tools[0]["function"]["name"] = "divide"
    assert chat.prompt("rules", "go", tools) == ChatTokens(byte_tokenizer()).prompt("rules", "go", [OTHER]) != before


def test_a_template_with_the_date_is_rendered_each_time(monkeypatch):
    chat = ChatTokens(FORMS["llama_3_1"].tokenizer)
    assert not chat.template.is_fixed
    assert ChatTokens(byte_tokenizer()).template.is_fixed
    day = ["26 Jul 2024"]
    monkeypatch.setitem(chat.template._template_kwargs, "date_string", day[0])
    first = chat.prompt("rules", "go")
    monkeypatch.setitem(chat.template._template_kwargs, "date_string", "27 Jul 2024")
    assert chat.prompt("rules", "go") != first


def test_what_is_kept_is_bounded():
    made = []
    recent = Recent(lambda *key: made.append(key) or len(made), 3)
    for number in (0, 1, 2, 3, 0, 0):
        recent("text", str(number))
    assert [key[1] for key in made] == ["0", "1", "2", "3", "0"]
    assert recent("x" * LONGEST + "y") != recent("x" * LONGEST + "y")


def test_schemas_of_other_than_plain_values_are_not_kept():
    class Name(str):
        pass

    assert unpacked(packed([TOOL])) == [TOOL]
    assert packed([TOOL]) != packed([OTHER])
    assert packed([{"a": 1}]) != packed([{"a": True}]) != packed([{"a": 1.0}])
    assert packed([{"a": [1]}]) != packed([{"a": (1,)}])
    assert packed([{"a": object()}]) is None
    tools = [{"type": "function", "function": {**TOOL["function"], "name": Name("add")}}]
    chat = ChatTokens(byte_tokenizer())
    assert chat.prompt("rules", "go", tools) == chat.prompt("rules", "go", [TOOL])


def test_a_tokenizer_with_a_way_of_its_own_is_asked_itself():
    class Own(type(byte_tokenizer())):
        def encode(self, text, **kwargs):
            return super().encode(text.upper(), **kwargs)

    own = Own(tokenizer_object=byte_tokenizer().backend_tokenizer)
    core = TokenizerCore(own)
    assert core.encode("five") == byte_tokenizer().encode("FIVE", add_special_tokens=False)
    assert not core.has_a_character_a_token


def test_a_tokenizer_that_somebody_set_to_cut_texts_cuts_none_here():
    from transformers import PreTrainedTokenizerFast

    shared = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer().backend_tokenizer)
    core = TokenizerCore(shared)
    expected = core.encode("five and six and seven")
    shared("five and six and seven", truncation=True, max_length=2)
    assert shared.backend_tokenizer.truncation is not None
    assert core.encode("five and six and seven") == expected
    assert core.encode("<|im_end|>", split_special_tokens=True) != core.encode("<|im_end|>")
    assert len(core.encode("<|im_end|>")) == 1


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ascii_has_no_more_tokens_than_characters_where_that_is_taken_for_granted(name):
    core = TokenizerCore(TOKENIZERS[name][0]())
    assert core.has_a_character_a_token == (name != "words")
    draw = random.Random(0)
    for _ in range(50 if core.has_a_character_a_token else 0):
        text = "".join(map(chr, draw.choices(range(128), k=draw.randrange(30))))
        assert len(core.encode(text, split_special_tokens=True)) <= len(text)


def test_tokenizers_that_put_something_in_front_or_write_out_characters_are_counted():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def counts(pre_tokenizer, normalizer=None, model=None):
        core = Tokenizer(model or models.BPE())
        core.pre_tokenizer = pre_tokenizer
        if normalizer is not None:
            core.normalizer = normalizer
        return TokenizerCore(PreTrainedTokenizerFast(tokenizer_object=core)).has_a_character_a_token

    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert counts(plain)
    assert counts(plain, normalizers.NFC())
    assert not counts(pre_tokenizers.ByteLevel(add_prefix_space=True))
    assert not counts(pre_tokenizers.Metaspace())
    assert not counts(pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), plain]))
    assert not counts(plain, normalizers.Prepend("x"))
    assert not counts(plain, normalizers.Sequence([normalizers.NFC(), normalizers.Replace("a", "aaaa")]))
    assert not counts(plain, model=models.WordPiece())
