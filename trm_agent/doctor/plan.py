"""`trm doctor --plan`: the memory of a model on this machine, or on another one, part by part."""

from __future__ import annotations

import os

from trm_agent.runs.hidden_gpus import has_nvidia, hides_all
from trm_agent.runs.planning import told
from trm_agent.runs.planning.auto import count_of, length_of, model_of, usable
from trm_agent.runs.planning.choose import Aims, Place, Plan, choose, plan_on_cpu
from trm_agent.runs.planning.host import free_memory_gib
from trm_agent.runs.planning.largest import LADDER, Wanted, engine_of, fitting
from trm_agent.runs.planning.layout import total
from trm_agent.runs.planning.machine import GIB, lacks_cuda, read_gpus, remedy_of
from trm_agent.runs.planning.presets import PRESETS, nearest
from trm_agent.runs.planning.shapes import CHOICES, ModelShape, shape_of
from trm_fields import COUNT, refuse

# for a machine without a GPU, which has no preset of another model than the nano model
CPU_MODEL, CPU_TOKENS = "smollm2", 2048


def make(model: str | None, gpus: int | None, gib: int | None, tokens: int | None) -> Plan:
    """Make the plan.

    Args:
        model: a choice of conf/model, a folder, or a hub id; None for the largest that the machine holds.
        gpus: GPUs of a node; None for those of this machine.
        gib: whole GiB of each; None for those of this machine.
        tokens: longest trajectory, prompt included; None for that of the nearest preset.

    Raises:
        ValueError: the shape of the model is not known here, GPUs without their memory, a number that is none, or GPUs
            here that cannot be read, are in use, or lack a PyTorch with CUDA.
    """
    for name, value in (("--gpus", gpus), ("--gpu-memory", gib), ("--tokens", tokens)):
        if value is not None:
            COUNT.check(name, value)
    here, why = ([], "") if gpus is not None and gib is not None else read_gpus()
    if why and has_nvidia() and not hides_all(os.environ):
        remedy = f"{remedy_of(why)}, or give --gpus and --gpu-memory"
        refuse("--plan", "this machine", "a machine whose driver lists its GPUs", remedy, because=f"but {why}")
    if here:
        if lacks_cuda():
            remedy = "TRM_HARDWARE=gpu bash scripts/setup.sh installs it, or give --gpus and --gpu-memory"
            because = "whose PyTorch is built without CUDA, so that a training takes the processor"
            refuse("--plan", "this machine", "PyTorch with CUDA beside GPUs", remedy, because=because)
        here = list(usable(here)[0])
        if gib is None and here[0].sliced:
            because = "for slices of GPUs (MIG), whose memory is not told"
            refuse("--gpu-memory", None, "whole GiB of the slice", "give it", because=because)
    number = gpus if gpus is not None else len(here)
    each = gib if gib is not None else min((gpu.gib for gpu in here), default=None)
    if number and each is None:
        refuse("--gpu-memory", None, "whole GiB of each GPU, since there is none here to ask", "give it, such as 79")
    if not number and each is not None:
        refuse("--gpus", None, "the number of GPUs, since there is none here to count", "give it, such as --gpus 1")
    if not number or each is None:
        return plan_on_cpu(_shape(model or CPU_MODEL), int(free_memory_gib() * GIB), tokens or CPU_TOKENS)
    preset = nearest(number, each) or PRESETS[0]
    # as a training does, where the number is this machine's
    place = Place(number if gpus is not None else count_of(preset, number), 1, each * GIB)
    wanted = tokens or length_of(preset)
    chosen = model or (model_of(preset, place)[0] if here and tokens is None else None)
    held = fitting(place, Wanted(wanted, engine_of(preset)))
    shape = _shape(chosen or next(iter(held), LADDER[-1]))
    if tokens is None and shape.context is not None:
        wanted = min(wanted, shape.context)
    return choose(shape, place, Aims(wanted, engine_of(preset)))


def as_text(plan: Plan) -> str:
    """Render a plan for people."""
    return "\n".join(told.table(plan))


def as_json(plan: Plan) -> dict[str, object]:
    """Return a plan as `--json` prints it; sizes in bytes."""
    phases = {name: {part.name: part.size for part in parts} for name, parts in plan.phases().items()}
    return {
        "model": plan.shape.name,
        "parameters": plan.shape.parameters,
        "fits": plan.fits,
        "usable": plan.place.usable,
        "phases": phases,
        "sums": {name: total(parts) for name, parts in plan.phases().items()},
        "longest": plan.longest,
        "limit": plan.limit,
        "micro_tokens": plan.micro_tokens,
        "layout": vars(plan.layout),
        "changes": [{"field": field, "value": value, "longest": tokens} for field, value, tokens in told.changes(plan)],
    }


def _shape(model: str) -> ModelShape:
    found = shape_of(model)
    if found is None:
        allowed = f"{', '.join(CHOICES)}, a folder with config.json, or a hub id that has been downloaded"
        refuse(
            "--model", model, allowed, "give one of them", because="of which no config.json of a dense model is here"
        )
    return found
