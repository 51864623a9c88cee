"""Find what is odd about a model: heads that the CPU engine lacks, a vocabulary larger than the tokenizer's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from trm_agent.runs.preflight import MODEL_PATH
from trm_fields import refuse

# of vLLM's attention on a CPU
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def check_heads(config: DictConfig, path: str, shape: Mapping[str, Any]) -> None:
    """Refuse a model whose heads vLLM cannot compute on a CPU: not one turn of an episode would be generated.

    Args:
        config: of the run.
        path: the model's folder or hub id.
        shape: its config.json.

    Raises:
        ValueError: with the width of its heads and those that there are.
    """
    heads, width = shape.get("num_attention_heads"), shape.get("hidden_size")
    size = shape.get("head_dim") or (width // heads if heads and width else None)
    if config.hardware.kind != "cpu" or config.actor_rollout_ref.rollout.name != "vllm":
        return
    if size is not None and size not in CPU_HEAD_SIZES:
        allowed = f"models with heads of {', '.join(map(str, CPU_HEAD_SIZES))}"
        because = f"whose heads are {size} wide, for which vLLM has no attention on a CPU"
        refuse(MODEL_PATH, path, allowed, "give another model, or hardware=gpu", because=because)


def told_vocabulary(vocab_size: int, num_tokens: int) -> str:
    """Return a line on a vocabulary larger than the tokenizer's; "" where it is not."""
    surplus = vocab_size - num_tokens
    if surplus <= 0:
        return ""
    return (
        f"{MODEL_PATH}: the model's vocabulary has {surplus} tokens more than its tokenizer; verl masks them in "
        "the rollout alone, so that the two differ a little from the first step on (docs/verl_on_cpu.md)"
    )
