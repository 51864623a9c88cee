"""Sizes of a decoder-only transformer from its configuration: parameters, activations and cache follow from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trm_agent.runs.planning.hub import cached_folder


@dataclass(frozen=True)
class ModelShape:
    """A model of grouped-query attention and gated feed-forward layers, as Llama, Qwen2 and Qwen3 are."""

    name: str
    """Name for people."""
    layers: int
    """Decoder layers."""
    hidden: int
    """Width of the residual stream."""
    heads: int
    """Heads of the queries."""
    kv_heads: int
    """Heads of keys and values."""
    head_dim: int
    """Width of a head."""
    mlp: int
    """Width of the feed-forward layer."""
    vocab: int
    """Tokens of the vocabulary."""
    tied: bool
    """Whether the matrix before the logits is the embedding's."""
    head_norms: bool
    """Whether queries and keys are normalised by head, as in Qwen3."""
    context: int | None
    """The longest context that it was made for, tokens; None if that is not stated."""

    @property
    def queries(self) -> int:
        """Return the width of all queries together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Return the width of all keys together, which is that of the values."""
        return self.kv_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Return the parameters of a layer: four projections, three of the feed-forward part, norms."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        norms = 2 * self.hidden + (2 * self.head_dim if self.head_norms else 0)
        return attention + 3 * self.hidden * self.mlp + norms

    @property
    def outer_parameters(self) -> int:
        """Return the parameters outside of the layers: embedding, head where it is another matrix, last norm."""
        return (1 if self.tied else 2) * self.vocab * self.hidden + self.hidden

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return self.layers * self.layer_parameters + self.outer_parameters

    @property
    def largest_tensor(self) -> int:
        """Return the parameters of the largest matrix."""
        return self.hidden * max(self.vocab, self.mlp, self.queries)

    def cache_bytes(self, width: int, tensor_parallel: int = 1) -> int:
        """Return the bytes of keys and values of a token on one device.

        Args:
            width: bytes of a value.
            tensor_parallel: devices of an engine; fewer heads than these are kept on several of them.
        """
        return 2 * self.layers * -(-self.kv_heads // tensor_parallel) * self.head_dim * width


def _qwen3(name: str, layers: int, hidden: int, heads: int, mlp: int, tied: bool, context: int = 40_960) -> ModelShape:
    return ModelShape(name, layers, hidden, heads, 8, 128, mlp, 151_936, tied, True, context)


# the config.json of each, for a machine without a network: path -> shape
KNOWN = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": ModelShape(
        "SmolLM2-135M", 30, 576, 9, 3, 64, 1536, 49_152, True, False, 8192
    ),
    "Qwen/Qwen3-0.6B": _qwen3("Qwen3-0.6B", 28, 1024, 16, 3072, True),
    "Qwen/Qwen3-1.7B": _qwen3("Qwen3-1.7B", 28, 2048, 16, 6144, True),
    "Qwen/Qwen3-4B": _qwen3("Qwen3-4B", 36, 2560, 32, 9728, True),
    "Qwen/Qwen3-4B-Instruct-2507": _qwen3("Qwen3-4B-Instruct-2507", 36, 2560, 32, 9728, True, 262_144),
    "Qwen/Qwen3-8B": _qwen3("Qwen3-8B", 36, 4096, 32, 12_288, False),
    "Qwen/Qwen3-8B-Base": _qwen3("Qwen3-8B-Base", 36, 4096, 32, 12_288, False, 32_768),
}
# names of conf/model -> path
CHOICES = {
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "qwen3_0_6b": "Qwen/Qwen3-0.6B",
    "qwen3_1_7b": "Qwen/Qwen3-1.7B",
    "qwen3_4b": "Qwen/Qwen3-4B",
    "qwen3_8b": "Qwen/Qwen3-8B",
    "qwen3_8b_base": "Qwen/Qwen3-8B-Base",
}

_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
_OPTIONAL = ("num_key_value_heads", "head_dim", "max_position_embeddings")


def shape_of(name: str) -> ModelShape | None:
    """Find the shape of a model: a choice of conf/model, a folder, or a hub id that is known or has been downloaded.

    Returns:
        None where no config.json is here, or where it is of another kind of model.
    """
    path = CHOICES.get(name, name)
    if path in KNOWN:
        return KNOWN[path]
    folder = Path(path).expanduser()
    if not folder.is_dir():
        cached = cached_folder(path, weights=False)
        if cached is None:
            return None
        folder = cached
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return from_config(config, Path(path).name) if isinstance(config, dict) else None


def from_config(config: Mapping[str, Any], name: str) -> ModelShape | None:
    """Read the shape from a config.json; None for a model of another kind, such as one of experts."""
    inner = config.get("text_config")
    if isinstance(inner, Mapping):
        config = inner
    sizes = [config.get(key) for key in _SIZES]
    experts = any(config.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts"))
    if experts or not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    # absent or null where they follow from the others
    if any(not isinstance(size, int) or size < 1 for key in _OPTIONAL if (size := config.get(key)) is not None):
        return None
    layers, hidden, heads, mlp, vocab = (int(config[key]) for key in _SIZES)
    return ModelShape(
        name,
        layers,
        hidden,
        heads,
        config.get("num_key_value_heads") or heads,
        config.get("head_dim") or hidden // heads,
        mlp,
        vocab,
        bool(config.get("tie_word_embeddings")),
        str(config.get("model_type", "")).startswith("qwen3"),
        config.get("max_position_embeddings"),
    )
