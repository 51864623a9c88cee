"""What an engine without a GPU needs for a model: threads, cache, bucket for weights, a rate that it keeps.

Pure functions of a model's sizes and a machine's, but for `seconds_per_weight`, which measures.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB, GIB = 1 << 20, 1 << 30
# vLLM's block of tokens on a CPU, where the configuration names none
BLOCK_TOKENS = 128
# tokens beyond those of the sequences, for prefixes that wait for their next turn
SPARE_TOKENS = 4096
DTYPE_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
# weights from which on a product takes longer than the threads' wait for each other
MANY_WEIGHTS = 20_000_000
# the preset's bucket, the largest for a model whose weights are all smaller: more is memory of both sides for nothing
BUCKET_MIB = 64
# float32 weights, gradients and the two moments of Adam, and the engine's own weights
TRAINER_BYTES, ENGINE_BYTES = 16, 4
# of what these leave free; the rest is for activations, and for whatever else runs here
CACHE_SHARE = 0.4
# a working engine is at least this much as fast as the products of its matrices alone: attention, other operators, and
# waiting for prompts of others take the rest
SLOWER = 5.0
FASTEST_LEAST = 1.0


@dataclass(frozen=True)
class ModelSize:
    """A model in numbers, all counts of numbers and not of bytes."""

    weights: int
    """Its weights, about: biases and norms are left out."""
    largest: int
    """Its largest matrix."""
    cached: int
    """Keys and values of a token."""


def model_size(shape: Mapping[str, Any]) -> ModelSize | None:
    """Return the sizes of a model that has the usual layers; None if its configuration does not state them.

    Args:
        shape: the configuration, as config.json holds it.
    """
    layers, heads, width = (shape.get(name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    inner, words = shape.get("intermediate_size"), shape.get("vocab_size")
    if not (layers and heads and width and inner and words):
        return None
    head = shape.get("head_dim") or width // heads
    key_heads = shape.get("num_key_value_heads") or heads
    experts = shape.get("num_experts") or shape.get("num_local_experts") or 1
    embedding, mlp = words * width, experts * 3 * width * inner
    attention = 2 * width * head * (heads + key_heads)
    tables = 1 if shape.get("tie_word_embeddings") else 2
    # an engine and a trainer may hold several matrices of a layer as one
    largest = max(embedding, mlp if experts > 1 else 2 * width * inner)
    return ModelSize(layers * (attention + mlp) + tables * embedding, largest, 2 * layers * key_heads * head)


def shape_at(path: str) -> Mapping[str, Any]:
    """Return the configuration of the model in a folder, or of a hub id that is in the cache; {} if it is not there."""
    file: Any = Path(path).expanduser() / "config.json"
    if not file.exists() and path.count("/") == 1 and not path.startswith((".", "/", "~")):
        try:
            from huggingface_hub import try_to_load_from_cache
        except ImportError:
            return {}
        found = try_to_load_from_cache(path, "config.json")
        file = Path(found) if isinstance(found, str) else file
    try:
        shape = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return shape.get("text_config") or shape if isinstance(shape, dict) else {}


def engine_threads(size: ModelSize | None, cores: int, must_repeat: bool) -> int:
    """Return the threads of the engine's operators: all cores, but for a small model, or where a run must repeat."""
    small = size is not None and size.weights < MANY_WEIGHTS
    return 1 if small or must_repeat else cores


def bucket_mib(size: ModelSize, number_bytes: int) -> int:
    """Return the MiB in which weights go to the engine: room for the largest matrix, and no more than all of them."""
    largest, whole = (math.ceil(numbers * number_bytes / MIB) + 1 for numbers in (size.largest, size.weights))
    return max(largest, min(whole, BUCKET_MIB))


def kv_cache_bytes(
    shape: Mapping[str, Any], dtype: str, num_sequences: int, num_tokens: int, block_tokens: int = BLOCK_TOKENS
) -> int | None:
    """Return the bytes of keys and values that the sequences can fill; None for a model that does not state its heads.

    Args:
        shape: the model's configuration, as config.json holds it.
        dtype: the engine's.
        num_sequences: the sequences that it samples at once.
        num_tokens: the longest of them.
        block_tokens: a sequence has whole blocks of so many.
    """
    layers, heads = shape.get("num_hidden_layers"), shape.get("num_attention_heads")
    size = shape.get("head_dim") or (shape["hidden_size"] // heads if shape.get("hidden_size") and heads else None)
    if not (layers and heads and size) or dtype not in DTYPE_BYTES:
        return None
    token = 2 * int(layers) * int(shape.get("num_key_value_heads") or heads) * int(size) * DTYPE_BYTES[dtype]
    blocks = num_sequences * math.ceil(num_tokens / block_tokens) + math.ceil(SPARE_TOKENS / block_tokens)
    return blocks * block_tokens * token


def cache_room(size: ModelSize | None, free_bytes: int, weight_bytes: int = TRAINER_BYTES + ENGINE_BYTES) -> int:
    """Return the bytes that keys and values may take: a share of what the weights leave, 1 GiB at least.

    Args:
        size: the model's; None where it is not known.
        free_bytes: what the machine has free.
        weight_bytes: bytes that a weight takes, with a trainer beside the engine or without.
    """
    taken = size.weights * weight_bytes if size is not None else 0
    return max(GIB, int(CACHE_SHARE * (free_bytes - taken)))


def least_rate(size: ModelSize | None, per_weight_s: float) -> float:
    """Return the tokens per second at which a working engine samples one sequence of many at the least.

    1 / (weights x seconds per weight) is what the matrices alone would allow; a fifth of it, at most 1.
    """
    if size is None or size.weights < MANY_WEIGHTS:
        return FASTEST_LEAST
    return min(FASTEST_LEAST, 1 / (size.weights * per_weight_s) / SLOWER)


def seconds_per_weight(num_sequences: int) -> float:
    """Measure what a weight costs in a product with a row for each sequence, in about a tenth of a second.

    The matrix is larger than caches, as a model's are together.
    """
    import numpy as np

    matrix = np.ones((4096, 4096), dtype=np.float32)
    rows = np.ones((num_sequences, 4096), dtype=np.float32)
    took = []
    for _ in range(4):
        started = time.perf_counter()
        rows @ matrix
        took.append(time.perf_counter() - started)
    # the first one also waits for threads and pages
    return min(took[1:]) / matrix.size
