"""Chat templates of the forms that open models have, and tokenizers for them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "templates"
TAGS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<tool_response>", "</tool_response>")


@dataclass(frozen=True)
class Form:
    """A family's template and what its tokenizer knows."""

    name: str
    special: tuple[str, ...]
    ends: dict[str, str]
    """Role of the answer -> the token that ends the model's turn before it."""
    tags: tuple[str, ...] = TAGS
    """Added tokens that are no special ones."""
    eos: str = ""
    bos: str | None = None
    protocol: str | None = None
    """The protocol that `auto` finds; None if none reads it."""
    opened: dict[str, Any] = field(default_factory=dict)
    """Variables with which the prompt opens a thought."""
    closed: dict[str, Any] = field(default_factory=dict)
    """Variables with which it opens none."""
    prefix: str = "<think>\n"

    @property
    def template(self) -> str:
        return (TEMPLATES / f"{self.name}.jinja").read_text(encoding="utf-8").removesuffix("\n")

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return _tokenizer(self.name)


def _same(end: str) -> dict[str, str]:
    return {"tool": end, "user": end}


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>")
MISTRAL = (
    *("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
)
GLM = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
GLM_TAGS = (*TAGS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
R1 = tuple(
    f"<\uff5c{name}\uff5c>"
    for name in (
        *("begin▁of▁sentence", "end▁of▁sentence", "User", "Assistant"),
        *("tool▁outputs▁begin", "tool▁outputs▁end", "tool▁output▁begin", "tool▁output▁end"),
    )
)
OPEN = {"open_thought": True}
FORMS = {
    form.name: form
    for form in (
        Form("chatml_json", CHATML, _same("<|im_end|>"), eos="<|im_end|>", protocol="hermes", opened=OPEN),
        Form(
            "qwen3_5",
            CHATML,
            _same("<|im_end|>"),
            eos="<|im_end|>",
            protocol="function_tags",
            closed={"enable_thinking": False},
        ),
        Form(
            "nemotron_3",
            CHATML,
            _same("<|im_end|>"),
            eos="<|im_end|>",
            protocol="function_tags",
            closed={"enable_thinking": False},
        ),
        Form(
            "glm_4_5",
            GLM,
            {"tool": "<|observation|>", "user": "<|user|>"},
            tags=GLM_TAGS,
            eos="<|endoftext|>",
            protocol="arg_tags",
            opened=OPEN,
            prefix="<think>",
        ),
        Form("llama_3_1", LLAMA, _same("<|eot_id|>"), tags=(), eos="<|eot_id|>", bos="<|begin_of_text|>", opened=OPEN),
        Form("mistral", MISTRAL, _same("</s>"), tags=(), eos="</s>", bos="<s>", opened=OPEN),
    )
}
R1_DISTILL = Form("r1_distill", R1, _same(R1[1]), eos=R1[1], bos=R1[0])


@functools.cache
def _tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE that merges across newlines and punctuation, with the special tokens of the family."""
    form = {**FORMS, R1_DISTILL.name: R1_DISTILL}[name]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(['{"result": "five"}\n\nthe sum is 12.\n</function>\n'] * 3, trainer)
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in form.special])
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in form.tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=form.eos,
        bos_token=form.bos,
        chat_template=form.template,
        clean_up_tokenization_spaces=False,
    )
