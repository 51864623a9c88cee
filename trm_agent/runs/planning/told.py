"""A plan in words: a line for the screen, the table of `trm doctor --plan`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trm_agent.runs.planning.choose import SIZES, Aims, Plan, plan_of, shares_heads
from trm_agent.runs.planning.fit import KNOBS, LENGTH, is_planned, plan_of_run, shape_of_run
from trm_agent.runs.planning.layout import Layout, shown, total
from trm_agent.runs.planning.memory import host_bytes
from trm_agent.runs.planning.presets import written

if TYPE_CHECKING:
    from omegaconf import DictConfig

_LIMITS = {
    "update": "the micro-batch of an update",
    "cache": "the engine's cache",
    "context": "the context that the model was made for",
}


def told_plan(config: DictConfig) -> str:
    """Return a run's plan in a line.

    Args:
        config: a composed and fitted configuration for GPUs.
    """
    if not is_planned(config):
        return "plan: none, since the model of memory is of FSDP and vLLM"
    shape = shape_of_run(config)
    if shape is None:
        path = config.actor_rollout_ref.model.path
        return f"plan: the shape of {path} is not known here, so memory is left to verl's defaults (trm doctor --plan)"
    plan = plan_of_run(config, shape)
    told = [f"{where(plan)}: {knobs(plan)}", sums(plan)]
    if config.actor_rollout_ref.actor.use_dynamic_bsz:
        told.append(longest(plan))
    return f"plan: {'; '.join(told)}{_shortened(config)} (trm doctor --plan)"


def where(plan: Plan) -> str:
    """Return model and devices in words."""
    place = plan.place
    if not plan.layout.on_cuda:
        return f"{plan.shape.name} without a GPU, {shown(place.device)} of memory free"
    nodes = f"{place.nodes} x " if place.nodes > 1 else ""
    return (
        f"{plan.shape.name} on {nodes}{place.per_node} GPU{'s' if place.per_node > 1 else ''} of {shown(place.device)}"
    )


def knobs(plan: Plan) -> str:
    """Return the settings of a layout that differ from the simplest one."""
    return ", ".join([f"{plan.micro_tokens} tokens a micro-batch", *switches(plan.layout)])


def switches(layout: Layout) -> list[str]:
    """Return what a layout switches on, in words."""
    found = ["gradient checkpointing"] * layout.checkpointing
    found += [f"sequences over {layout.ulysses} devices (Ulysses)"] * (layout.ulysses > 1)
    found += [f"{layout.tensor_parallel} devices an engine"] * (layout.tensor_parallel > 1)
    if layout.offload_policy:
        found.append("parameters and moments in the host's memory")
    elif layout.param_offload or layout.optimizer_offload:
        found.append("parameters and moments off the device between updates")
    return found


def sums(plan: Plan) -> str:
    """Return the two largest phases against what there is."""
    phases = sorted(plan.phases().items(), key=lambda item: -total(item[1]))[:2]
    told = " and ".join(f"{shown(total(parts))} in {name}" for name, parts in phases)
    return f"{told} of {shown(plan.place.usable)} usable"


def longest(plan: Plan) -> str:
    """Return the longest trajectory and what limits it."""
    return f"trajectories of up to {plan.longest} tokens, limited by {_LIMITS[plan.limit]}"


def table(plan: Plan) -> list[str]:
    """Return the lines of a plan: each phase's parts against the device, the host's memory, what would change it."""
    lines = [f"{where(plan)}: {knobs(plan)}", ""]
    for name, parts in plan.phases().items():
        used = total(parts)
        verdict = "fits" if used <= plan.place.usable else "DOES NOT FIT"
        lines.append(f"{name:<12}{shown(used):>10} of {shown(plan.place.usable)} usable: {verdict}")
        lines += [_line("", shown(part.size), part.name) for part in parts if part.size]
    lines.append("")
    if plan.layout.on_cuda:
        host = host_bytes(plan.shape, plan.layout, plan.place.per_node)
        lines.append(_line("host", shown(host), "beside the processes, while the model is loaded or offloaded"))
    lines.append(_line("cache", str(plan.cache_tokens), "tokens that an engine's cache holds"))
    lines.append(_line("longest", str(plan.longest), f"tokens of a trajectory, limited by {_LIMITS[plan.limit]}"))
    lines += [_line("", str(tokens), f"with {field}={value}") for field, value, tokens in changes(plan)]
    return lines


def changes(plan: Plan) -> list[tuple[str, Any, int]]:
    """Return single changes of a knob that hold a longer trajectory: field, value, tokens; the best first."""
    if not plan.layout.on_cuda:
        return []
    found = []
    for name, value in _others(plan):
        layout = replace(plan.layout, **{name: value})
        # the engine's share follows, as it does when the plan is made
        other = plan_of(plan.shape, plan.place, Aims(plan.longest, layout), layout)
        if other.longest > plan.longest and not other.phase_too_large():
            found.append((KNOBS[name], str(value).lower(), other.longest))
    return sorted(found, key=lambda each: -each[2])


def _line(title: str, number: str, words: str) -> str:
    return f"{title:<12}{number:>10}  {words}"


def _others(plan: Plan) -> list[tuple[str, Any]]:
    layout, place = plan.layout, plan.place
    flags = ("checkpointing", "param_offload", "optimizer_offload", "offload_policy")
    found: list[tuple[str, Any]] = [(name, True) for name in flags if not getattr(layout, name)]
    for size in SIZES:
        if size > layout.ulysses and place.devices % size == 0 and shares_heads(plan.shape, size):
            found.append(("ulysses", size))
        if size > layout.tensor_parallel and place.per_node % size == 0 and plan.shape.heads % size == 0:
            found.append(("tensor_parallel", size))
    return found


def _shortened(config: DictConfig) -> str:
    asked = written(str(config.run.experiment), LENGTH)
    now = int(config.data.max_response_length)
    return f"; {LENGTH}={now} instead of the preset's {asked}" if isinstance(asked, int) and now < asked else ""
