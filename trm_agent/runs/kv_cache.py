"""The size of the engine's key-value cache on a CPU: as much as its sequences can fill."""

import math
from collections.abc import Mapping
from typing import Any

# vLLM's block of tokens on a CPU
BLOCK_TOKENS = 128
# blocks beyond those of the sequences, for prefixes that wait for their next turn
SPARE_BLOCKS = 32
DTYPE_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


def kv_cache_bytes(shape: Mapping[str, Any], dtype: str, num_sequences: int, num_tokens: int) -> int | None:
    """Return the bytes of keys and values that the sequences can fill; None for a model that does not state its heads.

    Args:
        shape: the model's configuration, as config.json holds it.
        dtype: the engine's.
        num_sequences: the sequences that it samples at once.
        num_tokens: the longest of them.
    """
    layers, heads = shape.get("num_hidden_layers"), shape.get("num_attention_heads")
    size = shape.get("head_dim") or (shape["hidden_size"] // heads if shape.get("hidden_size") and heads else None)
    if not (layers and heads and size) or dtype not in DTYPE_BYTES:
        return None
    token = 2 * int(layers) * int(shape.get("num_key_value_heads") or heads) * int(size) * DTYPE_BYTES[dtype]
    blocks = num_sequences * math.ceil(num_tokens / BLOCK_TOKENS) + SPARE_BLOCKS
    return blocks * BLOCK_TOKENS * token
