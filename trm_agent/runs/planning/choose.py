"""Decide how a model lies on the devices: the cheapest layout whose phases fit, and the longest trajectory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trm_agent.runs.planning import memory
from trm_agent.runs.planning.activations import token_bytes
from trm_agent.runs.planning.layout import Layout, Part, total
from trm_agent.runs.planning.memory import RESERVE
from trm_agent.runs.planning.shapes import ModelShape

# a full device computes as fast with more; fewer only where more do not fit
FULL_TOKENS = 16_384
# a limit on tokens is a multiple of it
ROUND = 256
# trajectories that the engine's cache holds at the least: one at a time would take a step hours
AT_ONCE = 2
# an engine gains little from more, and the device keeps room for what the model leaves out; less holds no engine
MOST_SHARE, LEAST_SHARE, SHARE_STEP = 0.8, 0.2, 0.05
SIZES = (1, 2, 4, 8)
# further time of a step, roughly, as a share of it (assumed): it orders the layouts and has no other use
COSTS = {"checkpointing": 0.3, "ulysses": 0.1, "tensor_parallel": 0.1, "param_offload": 0.15, "offload_policy": 1.0}


@dataclass(frozen=True)
class Place:
    """The devices of a run."""

    per_node: int
    """Devices of a node."""
    nodes: int
    """Nodes."""
    device: int
    """Bytes of a device's memory."""

    @property
    def devices(self) -> int:
        """Return the number of all devices."""
        return self.per_node * self.nodes

    @property
    def usable(self) -> int:
        """Return the bytes of a device that a plan fills."""
        return int((1 - RESERVE) * self.device)


@dataclass(frozen=True)
class Aims:
    """What a run wants."""

    tokens: int
    """Longest trajectory, prompt included."""
    layout: Layout = field(default_factory=Layout)
    """The parts of the layout that are no choice: precision, engine, estimator."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the layout, or `micro_tokens`, that the user has set."""


@dataclass(frozen=True)
class Plan:
    """A layout and what comes of it."""

    shape: ModelShape
    """The model."""
    place: Place
    """The devices."""
    layout: Layout
    """How the model lies on them."""
    micro_tokens: int
    """Tokens of the largest micro-batch on a device; 0 where nothing fits beside the model."""
    longest: int
    """Longest trajectory that fits, prompt included, tokens."""
    limit: str
    """What limits it: `update`, `cache` or `context`."""
    cache_tokens: int
    """Tokens that the cache of one engine holds."""
    fits: bool
    """Whether the trajectory that was asked for fits."""

    def phases(self) -> dict[str, list[Part]]:
        """Return the parts of each phase; without a GPU the engine keeps its memory, and the update decides."""
        shape, layout = self.shape, self.layout
        if not layout.on_cuda:
            return {"update": memory.on_cpu(shape, layout, self.micro_tokens)}
        return {
            "loading": memory.loading(shape, layout),
            "generation": memory.generation(shape, layout, self.place.device),
            "weights": memory.weights(shape, layout),
            "update": memory.update(shape, layout, self.micro_tokens),
            "step": memory.step(shape, layout),
        }

    def phase_too_large(self) -> str:
        """Return the first phase that exceeds the usable part of a device; "" where none does."""
        return next((name for name, parts in self.phases().items() if total(parts) > self.place.usable), "")


def choose(shape: ModelShape, place: Place, aims: Aims) -> Plan:
    """Return the cheapest plan that holds the trajectory, or the one that holds the longest."""
    best: Plan | None = None
    for layout in layouts(shape, place, aims):
        plan = plan_of(shape, place, aims, layout)
        if plan.fits:
            return plan
        if best is None or plan.longest > best.longest:
            best = plan
    assert best is not None, "there is a layout for every number of devices"
    return best


def plan_of(shape: ModelShape, place: Place, aims: Aims, layout: Layout) -> Plan:
    """Return what comes of one layout: micro-batch, cache and the longest trajectory."""
    if "engine_share" not in aims.fixed:
        layout = replace(layout, engine_share=share_of_engine(shape, place, layout, aims.tokens))
    most = most_tokens(shape, place, layout)
    wanted = max(_rounded_up(aims.tokens, layout.ulysses), FULL_TOKENS)
    given = aims.fixed.get("micro_tokens")
    tokens = int(given) if given is not None else min(most, wanted)
    cache = memory.cache_tokens(shape, layout, place.device)
    limits = {"update": most * layout.ulysses, "cache": cache // AT_ONCE}
    if given is not None:
        limits["update"] = min(limits["update"], tokens * layout.ulysses)
    if shape.context is not None:
        limits["context"] = shape.context
    limit = min(limits, key=lambda name: limits[name])
    plan = Plan(shape, place, layout, tokens, limits[limit], limit, cache, False)
    return replace(plan, fits=limits[limit] >= aims.tokens and not plan.phase_too_large())


def plan_on_cpu(shape: ModelShape, device: int, tokens: int) -> Plan:
    """Return the plan of a machine without a GPU, for trajectories of so many tokens, one a micro-batch.

    Args:
        shape: the model.
        device: bytes of memory that are free.
        tokens: of a trajectory, prompt included.
    """
    plans = []
    for checkpointing in (False, True):
        layout = Layout(
            checkpointing=checkpointing, width=4, engine_width=4, by_sequence=True, on_cuda=False, batched_tokens=4096
        )
        place = Place(1, 1, device)
        left = place.usable - total(memory.on_cpu(shape, layout, 0))
        most = max(0, left // token_bytes(shape, layout))
        cache = memory.CPU_CACHE // shape.cache_bytes(layout.engine_width)
        limits = {"update": most, "cache": cache, **({"context": shape.context} if shape.context else {})}
        limit = min(limits, key=lambda name: limits[name])
        plans.append(Plan(shape, place, layout, tokens, limits[limit], limit, cache, limits[limit] >= tokens))
    return next((plan for plan in plans if plan.fits), plans[-1])


def layouts(shape: ModelShape, place: Place, aims: Aims) -> Iterator[Layout]:
    """Yield the possible layouts, the cheapest first."""
    of_context = [size for size in SIZES if shares_heads(shape, size) and place.devices % size == 0]
    of_engine = [size for size in SIZES if shape.heads % size == 0 and place.per_node % size == 0]
    choices: dict[str, list[Any]] = {
        "ulysses": of_context,
        "tensor_parallel": of_engine,
        "checkpointing": [False, True],
        "param_offload": [False, True],
        "offload_policy": [False, True],
    }
    choices |= {name: [aims.fixed[name]] for name in choices if name in aims.fixed}
    found = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    for each in sorted(found, key=cost):
        if each["offload_policy"] and each["param_offload"] and "param_offload" not in aims.fixed:
            continue
        moments = aims.fixed.get("optimizer_offload", each["param_offload"])
        split = place.devices if aims.layout.devices == 1 else aims.layout.devices
        yield replace(aims.layout, devices=split, optimizer_offload=moments, **_engine(aims.fixed), **each)


def cost(layout: Mapping[str, Any]) -> float:
    """Return the further time of a layout, as `COSTS` adds it up; of sizes for each doubling."""
    return sum(
        share * (int(layout[name]).bit_length() - (name in ("ulysses", "tensor_parallel")))
        for name, share in COSTS.items()
    )


def shares_heads(shape: ModelShape, size: int) -> bool:
    """Return True if so many devices can share a sequence by heads, as Ulysses does."""
    return shape.heads % size == 0 and (shape.kv_heads % size == 0 or size % shape.kv_heads == 0)


def share_of_engine(shape: ModelShape, place: Place, layout: Layout, tokens: int) -> float:
    """Return the share of a device for the engine: all that the trainer leaves, but no more than its sequences fill.

    Args:
        shape: the model.
        place: the devices.
        layout: how the model lies; its own share is not read.
        tokens: of the longest trajectory.
    """
    trainer = total(memory.resident(shape, layout)) + memory.CONTEXT * layout.on_cuda
    most = min(MOST_SHARE, (place.usable - trainer) / place.device)
    full = layout.sequences * tokens * shape.cache_bytes(layout.engine_width, layout.tensor_parallel)
    filled = (total(memory.engine(shape, layout)) + memory.GRAPHS + full) / place.device + SHARE_STEP
    steps = int(min(most, max(LEAST_SHARE, filled)) / SHARE_STEP)
    return round(max(0, steps) * SHARE_STEP, 2)


def most_tokens(shape: ModelShape, place: Place, layout: Layout) -> int:
    """Return the tokens of the largest micro-batch that fits on a device; 0 where the model alone does not."""
    left = place.usable - total(memory.update(shape, layout, 0))
    others = (memory.step(shape, layout), memory.loading(shape, layout))
    if left < 0 or any(total(parts) > place.usable for parts in others):
        return 0
    return left // token_bytes(shape, layout) // ROUND * ROUND


def _engine(fixed: Mapping[str, Any]) -> dict[str, Any]:
    names = ("engine_share", "batched_tokens", "sequences", "bucket")
    return {name: fixed[name] for name in names if name in fixed}


def _rounded_up(tokens: int, parts: int) -> int:
    """Return the tokens of a part, in whole `ROUND`."""
    return -(-tokens // (parts * ROUND)) * ROUND
