"""The memory of a run on one device, part by part: what is alive at once in each of its phases.

Every figure is bytes on one device. Sources are the code that allocates: verl 0.9.1 (`workers/engine/fsdp`), torch's
FSDP2 and AdamW, transformers' layers (what autograd keeps), vLLM's profile of itself. Where nothing states a size it is
a named constant above its use, marked as assumed.

    loading      the trainer's part of the model, wherever it stays later, and the matrix that is on its way
    generation   the engine's share, beside what the trainer leaves on the device
    weights      the engine awake without its cache, while it takes the trainer's parameters
    update       parameters, gradients, moments, and a micro-batch's activations and logits
    step         the same without a micro-batch, and the optimizer's temporaries
"""

from __future__ import annotations

from trm_agent.runs.planning.activations import gap_bytes, kept_bytes, top_bytes
from trm_agent.runs.planning.layout import FLOAT32, Layout, Part
from trm_agent.runs.planning.machine import GIB, MIB
from trm_agent.runs.planning.shapes import ModelShape

# values of Adam for each parameter
MOMENTS = 2
# of a device that no plan fills: fragments of the allocator, other kernels' workspace (assumed)
RESERVE = 0.06
# of a process on CUDA: context and library handles (assumed)
CONTEXT = 640 * MIB
# buffers of NCCL in a process with peers (assumed)
NCCL = 512 * MIB
# of vLLM's captured graphs, which its sleep does not release (assumed)
GRAPHS = 768 * MIB
# of the processes of a run without a GPU: that of the nano model stays below 8 GiB as a whole (assumed)
CPU_PROCESSES = 6 * GIB
# VLLM_CPU_KVCACHE_SPACE of conf/hardware/cpu.yaml
CPU_CACHE = 1 * GIB
GAPS = "gaps in the heap between them"
# a chunk of the log-probs on CUDA in float32, twice; of the divergences, a few at a time
LOG_PROB_CHUNK = 2 * FLOAT32 * 2**25
DIVERGENCE_CHUNK = 4 * FLOAT32 * 2**22


def parameters(shape: ModelShape, layout: Layout) -> int:
    """Return the bytes of a rank's parameters as they are stored."""
    return layout.stored * -(-shape.parameters // layout.devices)


def moments(shape: ModelShape, layout: Layout) -> int:
    """Return the bytes of a rank's moments."""
    return 0 if layout.adapter else MOMENTS * parameters(shape, layout)


def resident(shape: ModelShape, layout: Layout) -> list[Part]:
    """Return what the trainer leaves on the device between updates."""
    if layout.offload_policy:
        return []
    parts = []
    if not layout.param_offload:
        parts.append(Part("parameters", parameters(shape, layout)))
    if not layout.optimizer_offload:
        parts.append(Part("Adam's moments", moments(shape, layout)))
    return parts


def processes(layout: Layout) -> list[Part]:
    """Return what two processes take before they compute: a trainer and an engine."""
    if not layout.on_cuda:
        return []
    peers = (layout.devices > 1) + (layout.tensor_parallel > 1)
    return [
        Part("contexts of trainer and engine (assumed)", 2 * CONTEXT + peers * NCCL),
        Part("the engine's graphs (assumed)", GRAPHS),
    ]


def loading(shape: ModelShape, layout: Layout) -> list[Part]:
    """Return the parts while verl loads the model: every rank's share passes the device, also where it is offloaded."""
    return [
        *([Part("context of the trainer (assumed)", CONTEXT)] if layout.on_cuda else []),
        Part("parameters", parameters(shape, layout)),
        Part("the largest matrix, put together", layout.stored * shape.largest_tensor),
    ]


def generation(shape: ModelShape, layout: Layout, device: int) -> list[Part]:
    """Return the parts while episodes are played.

    Args:
        shape: the model.
        layout: how it lies.
        device: bytes of the device.
    """
    share = int(layout.engine_share * device)
    left = share - sum(part.size for part in engine(shape, layout)) - (GRAPHS if layout.on_cuda else 0)
    context = [] if not layout.on_cuda else [Part("context of the trainer (assumed)", CONTEXT)]
    return [*context, *resident(shape, layout), *engine(shape, layout), *_graphs(layout), Part("cache", max(0, left))]


def engine(shape: ModelShape, layout: Layout) -> list[Part]:
    """Return the parts of the engine's share other than its cache and graphs."""
    size, width = layout.tensor_parallel, layout.engine_width
    inner = 2 * shape.mlp // size + (shape.queries + 2 * shape.keys) // size + 4 * shape.hidden
    sampled = 2 * FLOAT32 * layout.sequences * shape.vocab
    context = [Part("context of the engine (assumed)", CONTEXT)] if layout.on_cuda else []
    return [
        *context,
        Part("the engine's weights", width * shape.parameters // size),
        # a sampled token's logits and log-probs in float32, or a layer's values for a full batch of tokens
        Part("the engine's activations", max(width * layout.batched_tokens * inner, sampled)),
    ]


def cache_tokens(shape: ModelShape, layout: Layout, device: int) -> int:
    """Return the tokens whose keys and values the engine's share holds."""
    cache = generation(shape, layout, device)[-1].size
    return cache // shape.cache_bytes(layout.engine_width, layout.tensor_parallel)


def weights(shape: ModelShape, layout: Layout) -> list[Part]:
    """Return the parts while the engine takes the trainer's parameters: its cache sleeps."""
    return [
        *processes(layout),
        *resident(shape, layout),
        Part("the engine's weights", layout.engine_width * shape.parameters // layout.tensor_parallel),
        Part("the largest matrix, put together", layout.stored * shape.largest_tensor),
        Part("the buffer for weights", layout.bucket),
    ]


def states(shape: ModelShape, layout: Layout) -> list[Part]:
    """Return what an update holds whatever its micro-batch."""
    if layout.offload_policy:
        return []
    gradients = 0 if layout.adapter else parameters(shape, layout)
    return [
        Part("parameters", parameters(shape, layout)),
        Part("gradients", gradients),
        Part("Adam's moments", moments(shape, layout)),
    ]


def gathered(shape: ModelShape, layout: Layout) -> int:
    """Return the bytes of parameters and gradients that FSDP has put together at the top of the backward pass.

    The outer parameters stay together from the first layer to the last, and so does their gradient, which the logits
    begin; of the layers one computes while the next one arrives, and the gradient of one is reduced in float32. One
    device alone makes the same copies.
    """
    together = 2 * shape.outer_parameters + 2 * shape.layer_parameters
    return together * layout.width + shape.layer_parameters * (layout.width + FLOAT32)


def update(shape: ModelShape, layout: Layout, tokens: int, logit_share: float = 1.0) -> list[Part]:
    """Return the parts of an update.

    Args:
        shape: the model.
        layout: how it lies.
        tokens: tokens of the largest micro-batch on this device.
        logit_share: share of the tokens whose logits are computed.
    """
    kept, (what, top) = kept_bytes(shape, layout), top_bytes(shape, layout, logit_share)
    name = "inputs of the layers" if layout.checkpointing else "activations"
    chunks = LOG_PROB_CHUNK * layout.on_cuda + DIVERGENCE_CHUNK * layout.exact
    return [
        *processes(layout),
        *states(shape, layout),
        Part("parameters and gradients, gathered", gathered(shape, layout)),
        Part(f"{name} of {tokens} tokens", kept * tokens),
        Part(f"{what} of {tokens} tokens", top * tokens),
        Part("chunks of logits in float32", chunks),
        Part(GAPS, gap_bytes(kept + top, layout) * tokens),
    ]


def step(shape: ModelShape, layout: Layout) -> list[Part]:
    """Return the parts while the optimizer steps: on CUDA it takes a root of all second moments at once."""
    roots = 0 if layout.offload_policy or not layout.on_cuda else moments(shape, layout) // MOMENTS
    return [*processes(layout), *states(shape, layout), Part("the optimizer's temporaries", roots)]


def on_cpu(shape: ModelShape, layout: Layout, tokens: int, logit_share: float = 1.0) -> list[Part]:
    """Return the parts of a machine without a GPU during an update: trainer and engine share its memory.

    Args:
        shape: the model.
        layout: how it lies, with `on_cuda=False`.
        tokens: tokens of the largest micro-batch.
        logit_share: share of the tokens whose logits are computed.
    """
    return [
        Part("Ray, driver, trainer and engine without a model (assumed)", CPU_PROCESSES),
        Part("the engine's weights", layout.engine_width * shape.parameters),
        Part("the engine's cache, at most", CPU_CACHE),
        *update(shape, layout, tokens, logit_share),
    ]


def host_bytes(shape: ModelShape, layout: Layout, per_node: int) -> int:
    """Return the bytes of the host's memory that a node needs beside its processes.

    While the model is loaded: once, but by every process where embedding and head are one matrix, since verl then
    builds none of them without values. Later on what is offloaded: parameters with their gradients, and moments.
    """
    loading = layout.stored * shape.parameters * (per_node if shape.tied else 1)
    ranks = min(per_node, layout.devices)
    gradients = 0 if layout.adapter else parameters(shape, layout)
    kept = (parameters(shape, layout) + gradients) * (layout.param_offload or layout.offload_policy)
    kept += moments(shape, layout) * (layout.optimizer_offload or layout.offload_policy)
    return max(loading, ranks * kept)


def _graphs(layout: Layout) -> list[Part]:
    return [Part("the engine's graphs (assumed)", GRAPHS)] if layout.on_cuda else []
