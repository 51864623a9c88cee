"""Tokenizer and weights of SmolLM2 out of its GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trm_agent.models.gguf_file import GGUF, Floats
from trm_agent.models.tokenizer import CHAT_TEMPLATE, PAD, TURN_END

# llama.cpp's names of a layer's weights -> transformers'
_OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHERS = {"token_embd": "embed_tokens", "output_norm": "norm"}
# llama.cpp's mark of a token that stands for itself alone
_CONTROL = 3


def make_tokenizer(settings: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Return the tokenizer: byte-level BPE in which each digit is a token, with the project's chat template.

    Args:
        settings: those of the file, under `tokenizer.ggml`.
    """
    tokens, merges = settings["tokenizer.ggml.tokens"], settings["tokenizer.ggml.merges"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges]))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=True),
        ]
    )
    core.decoder = decoders.ByteLevel()
    kinds = settings["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=TURN_END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=int(settings["llama.context_length"]),
    )


def make_model(read: GGUF, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the model in bfloat16.

    Raises:
        ValueError: a weight is missing, or of another shape.
    """
    settings = {name.removeprefix("llama."): value for name, value in read.settings.items()}
    heads, key_heads = settings["attention.head_count"], settings["attention.head_count_kv"]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings["embedding_length"],
        intermediate_size=settings["feed_forward_length"],
        num_hidden_layers=settings["block_count"],
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=settings["context_length"],
        rms_norm_eps=settings["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": settings["rope.freq_base"]},
        tie_word_embeddings="output.weight" not in read.tensors,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16)
    weights = {_renamed(name): _weight(name, values, heads, key_heads) for name, values in read.tensors.items()}
    missing = set(model.state_dict()) - set(weights) - ({"lm_head.weight"} if config.tie_word_embeddings else set())
    if missing:
        raise ValueError(f"the file lacks {', '.join(sorted(missing)[:3])}; fetch it again")
    model.load_state_dict(weights, strict=False)
    whole: LlamaForCausalLM = model
    return whole


def _renamed(name: str) -> str:
    """Return transformers' name of a weight: `blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`."""
    if name == "output.weight":
        return "lm_head.weight"
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_OF_LAYER[parts[2]]}.weight"
    return f"model.{_OTHERS[parts[0]]}.weight"


def _weight(name: str, values: Floats, heads: int, key_heads: int) -> Tensor:
    """Return a weight in transformers' order of rows.

    llama.cpp turns neighbouring rows of a head against each other, transformers its two halves.
    """
    number = heads if ".attn_q." in name else key_heads if ".attn_k." in name else 0
    if number:
        half = len(values) // number // 2
        values = values.reshape(number, half, 2, -1).swapaxes(1, 2).reshape(values.shape)
    return torch.from_numpy(values.copy()).to(torch.bfloat16)
