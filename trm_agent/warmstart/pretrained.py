"""A pretrained model that takes part: its weights, its tokenizer with a chat template, and the way it calls tools."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trm_agent.episode import ChatSettings, ChatTokens, chat_tokens
from trm_agent.episode.call_protocol import example_call, find_protocol, is_auto, resolved, shows_tools
from trm_agent.episode.chat_settings import told_otherwise
from trm_agent.extras import is_installed
from trm_agent.models.saving import without_bars
from trm_agent.models.tokenizer import CHAT_TEMPLATE, TURN_END, TURN_START
from trm_agent.warmstart.spec import AUTO
from trm_fields import refuse

MODEL = "--model"
# matrices of a layer that adapters are put beside
_ADAPTED = "all-linear"
# a product of matrices as in a small model, rows by columns by columns; and how much faster bfloat16 must be in it
_PRODUCT = (1024, 1024, 1024)
_BY_FAR = 1.5


@dataclass(frozen=True)
class Reader:
    """A tokenizer, and how its template is used for an environment."""

    tokenizer: Any
    """The Hugging Face tokenizer."""
    chat: ChatTokens
    """Renderer of its template."""
    kwargs: dict[str, Any]
    """Arguments of the environment, with the protocol by name."""
    notes: list[str]
    """Lines for people on what was added or is told otherwise."""


def load_reader(path: str, kwargs: Mapping[str, Any]) -> Reader:
    """Load a model's tokenizer, and give it a chat template where it has none.

    Args:
        path: a folder or a hub id.
        kwargs: arguments of the environment.

    Raises:
        ValueError: there is no tokenizer, or its template cannot be used.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        _refuse_unloadable(path, "tokenizer", error)
    notes = []
    if not tokenizer.chat_template:
        add_template(tokenizer, path)
        notes.append(f"the tokenizer has no chat template: it gets ChatML with tools, whose turns end with {TURN_END}")
    protocol = find_protocol(tokenizer, {}, describes_tools=True) if is_auto(kwargs) else ""
    own = resolved(kwargs, protocol)
    settings = ChatSettings(with_tools=shows_tools(own), call=example_call(own))
    return Reader(tokenizer, chat_tokens(tokenizer, settings), own, [*notes, *told_otherwise(tokenizer, settings)])


def add_template(tokenizer: Any, path: str) -> None:
    """Give a tokenizer the project's chat template, which needs two tokens that no text contains.

    Raises:
        ValueError: the tokenizer lacks them.
    """
    known = {token.content for token in tokenizer.added_tokens_decoder.values()}
    if not {TURN_START, TURN_END} <= known:
        refuse(
            MODEL,
            path,
            f"a model whose tokenizer has a chat template, or the tokens {TURN_START} and {TURN_END}",
            "take an instruction-tuned model, or add a chat_template to its tokenizer_config.json",
            because="whose tokenizer has neither",
        )
    tokenizer.chat_template, tokenizer.eos_token = CHAT_TEMPLATE, TURN_END
    if tokenizer.pad_token is None or tokenizer.pad_token == TURN_START:
        tokenizer.pad_token = TURN_END


def load_model(path: str, dtype: str, lora_rank: int = 0) -> tuple[Any, Any]:
    """Load a model to be trained.

    Args:
        path: a folder or a hub id.
        dtype: `bfloat16`, `float32` or `auto`.
        lora_rank: of adapters; 0 for none.

    Returns:
        The model, whose trainable parameters require a gradient, and peft's view of it; None without adapters.

    Raises:
        ValueError: it cannot be loaded, or peft is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if lora_rank and not is_installed("peft"):
        refuse("--lora-rank", lora_rank, "0 where peft is not installed", "pip install peft, or leave it out")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = getattr(torch, faster_dtype(device) if dtype == AUTO else dtype)
    try:
        with without_bars():
            model: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=chosen, attn_implementation="sdpa", trust_remote_code=False
            )
    except Exception as error:
        _refuse_unloadable(path, "model", error)
    model.to(device).train()
    if not lora_rank:
        return model, None
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules=_ADAPTED, task_type="CAUSAL_LM")
    return model, get_peft_model(model, adapters)


def faster_dtype(device: str) -> str:
    """Return `bfloat16` if a machine multiplies matrices faster in it than in float32, by far, else `float32`.

    A CPU does so with AMX. To find it out takes about 0.2 s on two cores.
    """
    import torch

    if device != "cpu":
        return "bfloat16"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, matrix = torch.ones(_PRODUCT[:2], dtype=dtype), torch.ones(_PRODUCT[1:], dtype=dtype)
        tries = []
        for _ in range(4):
            began = time.perf_counter()
            rows @ matrix
            tries.append(time.perf_counter() - began)
        seconds[dtype] = min(tries)
    return "bfloat16" if seconds[torch.bfloat16] * _BY_FAR < seconds[torch.float32] else "float32"


def _refuse_unloadable(path: str, what: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:300]
    refuse(
        MODEL,
        path,
        "a Hugging Face folder, a hub id, or smollm2",
        "give another",
        because=f"whose {what} cannot be loaded ({reason})",
    )
