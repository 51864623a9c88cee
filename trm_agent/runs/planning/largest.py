"""The largest model that a machine trains, what its plan switches on for it, and why no larger one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trm_agent.runs.planning.choose import Aims, Place, Plan, choose, layouts, plan_of
from trm_agent.runs.planning.fit import KNOBS
from trm_agent.runs.planning.layout import Layout, shown, total
from trm_agent.runs.planning.machine import GIB
from trm_agent.runs.planning.memory import host_bytes
from trm_agent.runs.planning.presets import Preset, written
from trm_agent.runs.planning.read_fields import READ
from trm_agent.runs.planning.shapes import CHOICES, KNOWN, ModelShape
from trm_agent.runs.planning.told import switches

# the largest first; one that fits is taken
LADDER = ("qwen3_8b_base", "qwen3_4b", "qwen3_1_7b", "qwen3_0_6b")
_ROLLOUT = "actor_rollout_ref.rollout"


@dataclass(frozen=True)
class Wanted:
    """What a model has to hold, and with what."""

    tokens: int
    """Longest trajectory, prompt included."""
    engine: Layout = field(default_factory=Layout)
    """The parts of the layout that are no choice."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the layout that the user has set."""
    host_gib: float = math.inf
    """GiB of the machine's memory that are free."""


def engine_of(preset: Preset) -> Layout:
    """Return the layout with what a preset says of its engine."""
    layout = Layout()
    tokens = written(preset.name, f"{_ROLLOUT}.max_num_batched_tokens") or layout.batched_tokens
    sequences = written(preset.name, f"{_ROLLOUT}.max_num_seqs") or layout.sequences
    return replace(layout, batched_tokens=tokens, sequences=sequences)


def fixed_by(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the memory's knobs that a user's overrides set; a reference to another field is read later only.

    Args:
        given: overrides, name -> value as it is written.

    Raises:
        ValueError: a value that is not allowed.
    """
    import yaml

    fixed = {}
    for name, path in KNOBS.items():
        if path in given and "${" not in given[path]:
            try:
                fixed[name] = yaml.safe_load(given[path])
            except yaml.YAMLError:
                fixed[name] = given[path]
            READ[path].check(path, fixed[name])
    return fixed


def plan_for(model: str, place: Place, wanted: Wanted, in_host: bool = False) -> Plan:
    """Return a model's plan: offload between updates, Ulysses and the rest as the cheapest layout that fits has them.

    Where none fits it is the closest one.

    Args:
        model: name in conf/model.
        place: the devices.
        wanted: what it has to hold.
        in_host: whether its parameters and moments may stay in the host's memory, which counts as twice a step's time.
    """
    fixed = {**({} if in_host else {"offload_policy": False}), **wanted.fixed}
    shape, aims = KNOWN[CHOICES[model]], Aims(wanted.tokens, wanted.engine, fixed)
    plan = choose(shape, place, aims)
    return plan if plan.fits else closest(shape, place, aims)


def closest(shape: ModelShape, place: Place, aims: Aims) -> Plan:
    """Return the plan that exceeds the devices least, and of those that do not the one of the longest trajectory."""

    def lacks(plan: Plan) -> tuple[int, int]:
        most = max(total(parts) for parts in plan.phases().values())
        return max(0, most - place.usable), -plan.longest

    return min((plan_of(shape, place, aims, layout) for layout in layouts(shape, place, aims)), key=lacks)


def obstacle(plan: Plan, wanted: Wanted) -> str:
    """Return what a plan lacks, as a verb with its object; "" where it lacks nothing."""
    if plan.phase_too_large():
        phase, parts = max(plan.phases().items(), key=lambda each: total(each[1]))
        needed = shown(total(parts))
        return f"needs {needed} in the phase {phase}, of {shown(plan.place.usable)} usable"
    if not plan.fits:
        return f"holds trajectories of {plan.longest} tokens"
    needed_of_host = host_bytes(plan.shape, plan.layout, plan.place.per_node)
    if needed_of_host > wanted.host_gib * GIB:
        return f"needs {shown(needed_of_host)} of the machine's memory, of which {wanted.host_gib:.1f} GiB are free"
    return ""


def fitting(place: Place, wanted: Wanted) -> dict[str, Plan]:
    """Return the models that train there, the largest first, with their plans.

    The smallest one in the host's memory where none fits without: a step counts as twice as long, and grows with the
    parameters. Empty where that does not fit either.
    """
    plans = {model: plan_for(model, place, wanted) for model in LADDER}
    found = {model: plan for model, plan in plans.items() if not obstacle(plan, wanted)}
    if found:
        return found
    last = plan_for(LADDER[-1], place, wanted, in_host=True)
    return {} if obstacle(last, wanted) else {LADDER[-1]: last}


def larger(model: str, place: Place, wanted: Wanted) -> str:
    """Return why the next larger model does not train there, in a clause; "" where it does, or there is none."""
    above = LADDER[: LADDER.index(model)]
    if not above or not (why := obstacle(plan_for(above[-1], place, wanted), wanted)):
        return ""
    in_host = plan_for(above[-1], place, wanted, in_host=True)
    slow = ", unless all stays in the host's memory, which the plan takes for twice the time"
    return f"{above[-1]} {why}" + ("" if obstacle(in_host, wanted) else slow)


def told_choice(model: str, plan: Plan, place: Place, wanted: Wanted) -> str:
    """Return what a model's plan switches on, and why the next larger model is not it, after a clause on the model."""
    found = switches(plan.layout)
    with_them = f" with {', '.join(found)}" if found else ""
    above = larger(model, place, wanted)
    return f"{with_them}; {above}" if above else with_them


def told_none(place: Place, wanted: Wanted) -> str:
    """Return why no model trains there, in a clause."""
    why = obstacle(plan_for(LADDER[-1], place, wanted, in_host=True), wanted)
    return f"no model holds trajectories of {wanted.tokens} tokens ({LADDER[-1]} {why})"
