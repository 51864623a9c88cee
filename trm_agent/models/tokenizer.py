"""The nano model's tokenizer: byte-level BPE with single digits, ChatML and Hermes-style tools.

A merge may span whole phrases, so that an environment's fixed texts cost one token each; digits, operators and brackets
never merge, so that a number is copied digit by digit. Nor does a role's header: the generation prompt ends there, and
the model's samples must not share a token with it.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trm_agent.models.traces import Trace

PAD = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
CONTROL_TOKENS = (PAD, TURN_START, TURN_END)
# Not special to Hugging Face: they are part of the model's text, and decoding keeps them.
TAG_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
NEVER_MERGED = r"[0-9]|[-+*/%=()]|(?:system|user|assistant)\n"

# Append-only: every message is rendered by itself, so a longer conversation begins with the shorter one's text.
CHAT_TEMPLATE = r"""
{%- set has_system = messages and messages[0].role == "system" %}
{%- if tools or has_system %}
    {{- "<|im_start|>system\n" }}
    {{- messages[0].content if has_system else "" }}
    {%- if tools %}
        {{- "\n\n# Tools\n<tools>\n" }}
        {%- for tool in tools %}
            {{- (tool | tojson) + "\n" }}
        {%- endfor %}
        {{- "</tools>\nCall a tool like this:\n<tool_call>\n" }}
        {{- '{"name": "...", "arguments": {...}}' }}
        {{- "\n</tool_call>" }}
    {%- endif %}
    {{- "<|im_end|>\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "tool" %}
        {{- "<|im_start|>user\n<tool_response>\n" + message.content + "\n</tool_response><|im_end|>\n" }}
    {%- elif not (loop.first and has_system) %}
        {{- "<|im_start|>" + message.role + "\n" + (message.content or "") }}
        {%- for call in message.tool_calls or [] %}
            {%- set called = call.function or call %}
            {{- "<tool_call>\n" + ({"name": called.name, "arguments": called.arguments} | tojson) + "\n</tool_call>" }}
        {%- endfor %}
        {{- "<|im_end|>\n" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\n" }}
{%- endif %}
""".strip()


def train_tokenizer(traces: Sequence[Trace], max_vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on rendered conversations.

    Args:
        traces: solved episodes.
        max_vocab_size: upper limit; training ends earlier when nothing is left to merge.

    Returns:
        A tokenizer whose length is exactly the number of its tokens.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(NEVER_MERGED), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max_vocab_size,
        special_tokens=[*CONTROL_TOKENS, *TAG_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare = _wrap(core)
    core.train_from_iterator(_without_tokens(render(bare, trace) for trace in traces), trainer=trainer)
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL_TOKENS])
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in TAG_TOKENS])
    return _wrap(core)


def render(tokenizer: PreTrainedTokenizerFast, trace: Trace) -> str:
    """Return the text of a whole conversation under the tokenizer's chat template."""
    tools: list[Any] = list(trace.tools)
    return str(tokenizer.apply_chat_template(trace.messages, tools=tools, tokenize=False))


def _wrap(core: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=TURN_END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def _without_tokens(texts: Iterable[str]) -> Iterable[str]:
    """Split texts at the tokens of fixed meaning: the trainer would build merges out of their letters."""
    fixed = re.compile("|".join(re.escape(token) for token in (*CONTROL_TOKENS, *TAG_TOKENS)))
    for text in texts:
        yield from (part for part in fixed.split(text) if part)
