"""Bytes of a token in an update: what autograd keeps of each layer, and what the backward pass adds to it."""

from __future__ import annotations

from trm_agent.runs.planning.layout import FLOAT32, Layout
from trm_agent.runs.planning.shapes import ModelShape

# tensors of a logit's size in an update on a CPU, where cross-entropy is torch's: in the backward pass the log-softmax
# that autograd keeps, its gradient, and the logits'
CROSS_ENTROPY = 3
# what the C library's heap keeps between the tensors of a micro-batch, as a share of them: measured on a CPU with
# sequences of 2,048 and 4,096 tokens (0.5 and 0.7; benchmarks/memory_plan.py); CUDA's allocator has `memory.RESERVE`
HEAP_GAPS = 0.6
# on CUDA, where log-probs are taken in chunks: the logits and their gradient
CHUNKED = 2


def entropy_bytes(width: int, compiled: bool) -> int:
    """Return the bytes of a logit that verl's entropy adds: a gradient of its own before both are added up.

    Without a compiler autograd also keeps the probabilities, in float32 under verl's autocast, and their gradient.

    Args:
        width: bytes of a value in the forward pass.
        compiled: whether it is compiled, as verl does on a GPU.
    """
    return width if compiled else width + 2 * FLOAT32


def layer_bytes(shape: ModelShape, layout: Layout) -> int:
    """Return the bytes that autograd keeps of a layer for each token.

    Twice a norm: its input in float32, the normalised values, its output. By head where queries and keys are
    normalised: the same without the output. Attention: queries, keys, values, its output, a sum for each head; by
    sequence, keys and values of every head of the queries, and the output a second time, put together. The gated part:
    gate, its activation, the other half, their product.
    """
    norms = 2 * shape.hidden * (FLOAT32 + 2 * layout.width)
    by_head = (shape.queries + shape.keys) * (FLOAT32 + layout.width) if shape.head_norms else 0
    kept = 5 * shape.queries if layout.by_sequence else 2 * (shape.queries + shape.keys)
    attention = kept * layout.width + FLOAT32 * shape.heads
    return norms + by_head + attention + 4 * shape.mlp * layout.width


def working_bytes(shape: ModelShape, layout: Layout) -> int:
    """Return the bytes of the gradients within one layer for each token: three of the gated part, two of the stream."""
    return (3 * shape.mlp + 2 * shape.hidden) * layout.width


def kept_bytes(shape: ModelShape, layout: Layout) -> int:
    """Return the bytes of a token that autograd keeps until the backward pass: all layers, or the input of each."""
    layer = shape.hidden * layout.width if layout.checkpointing else layer_bytes(shape, layout)
    return shape.layers * layer + shape.hidden * (FLOAT32 + 2 * layout.width)


def top_bytes(shape: ModelShape, layout: Layout, logit_share: float = 1.0) -> tuple[str, int]:
    """Return the bytes of a token beyond these where the backward pass needs most, and what they are.

    At its beginning the logits are there; one layer further down the gradients within it and, with checkpointing, the
    layer computed again. The larger of the two decides.

    Args:
        shape: the model.
        layout: how it lies.
        logit_share: share of the tokens whose logits are computed.
    """
    of_logit = (CHUNKED if layout.on_cuda else CROSS_ENTROPY) * layout.width + (FLOAT32 if layout.exact else 0)
    of_logit = 0 if layout.fused else of_logit + layout.entropy_bytes
    logits = int(logit_share * shape.vocab * of_logit)
    within = working_bytes(shape, layout) + (layer_bytes(shape, layout) if layout.checkpointing else 0)
    return ("logits and their gradients", logits) if logits >= within else ("one layer and its gradients", within)


def token_bytes(shape: ModelShape, layout: Layout, logit_share: float = 1.0) -> int:
    """Return the bytes that a token of a micro-batch adds to an update; arguments as for `top_bytes`."""
    tensors = kept_bytes(shape, layout) + top_bytes(shape, layout, logit_share)[1]
    return tensors + gap_bytes(tensors, layout)


def gap_bytes(tensors: int, layout: Layout) -> int:
    """Return the bytes that the heap keeps between so many bytes of a micro-batch's tensors."""
    return 0 if layout.on_cuda else int(HEAP_GAPS * tensors)
