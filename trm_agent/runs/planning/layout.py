"""How a run lies on its devices, and the parts of a device's memory."""

from __future__ import annotations

from dataclasses import dataclass

from trm_agent.runs.planning.machine import GIB, MIB

FLOAT32, BFLOAT16 = 4, 2


@dataclass(frozen=True)
class Layout:
    """How a run lies on its devices."""

    devices: int = 1
    """Devices over which FSDP splits parameters, gradients and moments."""
    ulysses: int = 1
    """Devices that share the tokens of a sequence."""
    tensor_parallel: int = 1
    """Devices of an engine."""
    checkpointing: bool = True
    """Whether a layer's activations are computed again in the backward pass."""
    param_offload: bool = False
    """Whether parameters and gradients leave the device between updates."""
    optimizer_offload: bool = False
    """Whether the moments leave it between updates."""
    offload_policy: bool = False
    """Whether parameters, gradients and moments stay in the host's memory always."""
    stored: int = FLOAT32
    """Bytes of a parameter as it is stored; its gradient and its moments have the same."""
    adapter: bool = False
    """Whether an adapter alone is trained, whose gradients and moments are too few to count."""
    width: int = BFLOAT16
    """Bytes of a value in the forward pass."""
    engine_width: int = BFLOAT16
    """Bytes of a value in the engine."""
    engine_share: float = 0.5
    """Share of the device that the engine takes, its weights included."""
    batched_tokens: int = 8192
    """Tokens that the engine reads at once."""
    sequences: int = 256
    """Sequences that it samples at once."""
    bucket: int = 2048 * MIB
    """Bytes of the buffer through which weights go to the engine."""
    exact: bool = False
    """Whether the rollout's whole distributions are compared with the policy's."""
    entropy_bytes: int = 0
    """Bytes that the loss's term of entropy adds to each logit."""
    fused: bool = False
    """Whether log-probs are taken from the last layer's output in one kernel, without the logits."""
    by_sequence: bool = False
    """Whether attention is a call for each sequence, as without a GPU: keys repeated, outputs put together."""
    on_cuda: bool = True
    """Whether the device is a GPU."""


@dataclass(frozen=True)
class Part:
    """One part of a device's memory."""

    name: str
    """What it is."""
    size: int
    """Bytes."""


def total(parts: list[Part]) -> int:
    """Return the bytes of all parts."""
    return sum(part.size for part in parts)


def shown(size: int) -> str:
    """Return bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / MIB:.0f} MiB"
