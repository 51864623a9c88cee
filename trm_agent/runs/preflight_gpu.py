"""Rules of `trm_agent.runs.preflight` on GPUs: that they are there, free, alike and new enough, and that the plan fits.

A run whose devices are a cluster's is asked for none of them: `RAY_ADDRESS` says that they are elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trm_agent.runs.hidden_gpus import has_nvidia
from trm_agent.runs.planning.choose import Plan
from trm_agent.runs.planning.fit import KNOBS, LENGTH, MEMORY, is_planned, plan_of_run, shape_of_run
from trm_agent.runs.planning.host import free_memory_gib
from trm_agent.runs.planning.layout import Part, shown, total
from trm_agent.runs.planning.machine import (
    GIB,
    LEAST_CAPABILITY,
    Gpu,
    is_older,
    lacks_cuda,
    least_driver,
    read_gpus,
    remedy_of,
    torch_cuda,
)
from trm_agent.runs.planning.memory import host_bytes
from trm_agent.runs.planning.presets import WITHOUT_GPU, nearest_words
from trm_agent.runs.rollout_pool import devices_here
from trm_agent.runs.ulysses import check_shared_heads, sizes
from trm_fields import refuse

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from trm_agent.runs.planning.shapes import ModelShape

KIND, COUNT = "hardware.kind", "trainer.n_gpus_per_node"
MODEL_PATH = "actor_rollout_ref.model.path"
LONGER = (
    "take a model that was made for longer contexts, such as Qwen/Qwen3-4B-Instruct-2507 (262,144), or a folder whose "
    "config.json stretches them (YaRN in rope_scaling, and max_position_embeddings raised with it)"
)
# phase -> the field that makes it smaller
OF_PHASE = {
    "loading": MODEL_PATH,
    "generation": KNOBS["engine_share"],
    "weights": "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes",
    "update": KNOBS["micro_tokens"],
    "step": KNOBS["offload_policy"],
}


def usable_gpus(config: DictConfig, gpus: Sequence[Gpu]) -> None:
    """Refuse GPUs that the installed packages cannot use, fewer than asked for, and several kinds of them.

    Args:
        config: a composed configuration of a run on this machine's GPUs.
        gpus: those that the command may use, one at least.

    Raises:
        ValueError: with the numbers found and what would do.
    """
    driver = least_driver(torch_cuda())
    old = next((gpu for gpu in gpus if is_older(gpu.driver, driver)), None)
    if old is not None:
        because = f"but {old.name} has driver {old.driver}"
        refuse(
            KIND,
            "gpu",
            f"driver {driver} or newer, which CUDA {torch_cuda() or '13'} needs",
            "update it",
            because=because,
        )
    trainers, wanted = int(config.trainer.n_gpus_per_node), devices_here(config)
    gib = min(gpu.gib for gpu in gpus)
    if wanted > len(gpus):
        own = wanted - trainers
        together = " together" if own else ""
        allowed = f"at most {len(gpus)}{together}, the CUDA devices of this machine ({told(gpus)})"
        because = f"with {own} more for the rollout servers" if own else ""
        refuse(COUNT, trainers, allowed, f"lower it, or choose {nearest_words(len(gpus), gib)}", because=because)
    asked = int(config.hardware.gpu_memory_gib or 0)
    if asked > gib:
        because = f"but the smallest of {told(gpus)} has {gib}"
        refuse(MEMORY, asked, f"at most {gib}", f"set it, or choose {nearest_words(len(gpus), gib)}", because=because)
    used = gpus[:wanted]
    weak = next((gpu for gpu in used if is_older(gpu.capability, LEAST_CAPABILITY)), None)
    if weak is not None:
        because = f"but {weak.name} has compute capability {weak.capability}"
        allowed = f"{LEAST_CAPABILITY} or newer (A100, L4, H100, RTX 30 and later)"
        refuse(KIND, "gpu", allowed, "take other GPUs, or hardware=cpu with the packages for it", because=because)
    if len({(gpu.name, gpu.gib) for gpu in used}) > 1:
        remedy = "list equal ones in CUDA_VISIBLE_DEVICES, and set trainer.n_gpus_per_node to their number"
        refuse(
            COUNT,
            trainers,
            "GPUs of one kind: the slowest and the smallest decides",
            remedy,
            because=f"but they are {told(used)}",
        )


def free_gpus(gpus: Sequence[Gpu], plan: Plan | None) -> None:
    """Refuse GPUs of which others hold what the plan needs; without a plan, a fifth of it.

    Raises:
        ValueError: with the memory that is free.
    """
    for gpu in gpus:
        needed = max(map(total, plan.phases().values())) if plan is not None else 0
        if gpu.sliced or (gpu.free >= needed and (plan is not None or gpu.is_free)):
            continue
        because = f"but of GPU {gpu.index} ({gpu.name}) only {shown(gpu.free)} of {shown(gpu.total)} are free"
        allowed = f"GPUs with {shown(needed)} free, which the plan needs" if needed else "GPUs that no program uses"
        remedy = "end what uses it (nvidia-smi lists it), or leave it out with CUDA_VISIBLE_DEVICES"
        refuse(KIND, "gpu", allowed, remedy, because=because)


def heads(config: DictConfig, shape: ModelShape) -> None:
    """Refuse to split a model's heads over a number of devices that does not divide them.

    Raises:
        ValueError: with the numbers.
    """
    rollout, trainer = config.actor_rollout_ref.rollout, config.trainer
    devices, engine = int(trainer.n_gpus_per_node) * int(trainer.nnodes), int(rollout.tensor_model_parallel_size)
    if shape.heads % engine or (shape.kv_heads % engine and engine % shape.kv_heads):
        because = f"but {shape.name} has {shape.heads} heads and {shape.kv_heads} of keys"
        refuse(KNOBS["tensor_parallel"], engine, _words(_divisors(shape, devices)), "choose one", because=because)
    for field, size in sizes(config).items():
        check_shared_heads({"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads}, size, field)


def fitting_plan(config: DictConfig, plan: Plan) -> None:
    """Refuse a plan that does not fit its devices.

    Raises:
        ValueError: with the phase, its parts, and the longest trajectory that fits.
    """
    tokens = int(config.data.max_prompt_length) + int(config.data.max_response_length)
    gib, place = int(config.hardware.gpu_memory_gib), plan.place
    where = f"{plan.shape.name} on {place.devices} GPU{'s' if place.devices > 1 else ''} of {gib} GiB"
    remedy = (
        f"change that, take a smaller model or {nearest_words(place.per_node, gib)}; trm doctor --plan shows the parts"
    )
    if phase := plan.phase_too_large():
        parts = plan.phases()[phase]
        because = f"with which {where} needs {shown(total(parts))} in the phase {phase} ({_largest(parts)})"
        field = OF_PHASE[phase]
        refuse(field, _value(config, field), f"what fits into {shown(place.usable)}", remedy, because=because)
    if not plan.fits:
        longest = max(0, plan.longest - int(config.data.max_prompt_length))
        because = f"with which a trajectory has {tokens} tokens and {where} holds {plan.longest} ({plan.limit})"
        remedy = f"lower it, or {LONGER}" if plan.limit == "context" else remedy
        refuse(LENGTH, config.data.max_response_length, f"at most {longest}", remedy, because=because)


def host_memory(config: DictConfig, plan: Plan, free_gib: float) -> None:
    """Refuse a plan that needs more of the host's memory than is free.

    Raises:
        ValueError: with the memory that is free.
    """
    needed = host_bytes(plan.shape, plan.layout, plan.place.per_node)
    if needed <= free_gib * GIB:
        return
    why = "while it is loaded" if not plan.layout.offload_policy else "for what stays off the GPUs"
    because = f"which needs {shown(needed)} of the machine's memory {why}, of which {free_gib:.1f} GiB are free"
    remedy = "take a smaller model or fewer GPUs, or end what uses the memory; trm doctor --plan shows the parts"
    refuse(MODEL_PATH, config.actor_rollout_ref.model.path, "a model that fits", remedy, because=because)


def check_gpus(config: DictConfig) -> None:
    """Check a run on this machine's GPUs, as far as its model is known; none where there is no GPU of NVIDIA's.

    Raises:
        ValueError: the first fault.
    """
    gpus, why = read_gpus()
    if not gpus:
        if has_nvidia():
            remedy = f"{remedy_of(why)}, or choose experiment={WITHOUT_GPU}"
            refuse(KIND, "gpu", "a machine whose driver lists its GPUs", remedy, because=f"but {why}")
        return
    if lacks_cuda():
        remedy = f"TRM_HARDWARE=gpu bash scripts/setup.sh installs it, or choose experiment={WITHOUT_GPU}"
        refuse(KIND, "gpu", "PyTorch with CUDA", remedy, because="but the installed one is built without CUDA")
    usable_gpus(config, gpus)
    shape = shape_of_run(config) if is_planned(config) else None
    if shape is None:
        free_gpus(gpus[: devices_here(config)], None)
    else:
        check_plan(config, shape, gpus)


def check_plan(config: DictConfig, shape: ModelShape, gpus: Sequence[Gpu] = ()) -> None:
    """Check heads, plan and what is free of the host's and the GPUs' memory; raises as they do."""
    heads(config, shape)
    plan = plan_of_run(config, shape)
    fitting_plan(config, plan)
    host_memory(config, plan, free_memory_gib())
    free_gpus(gpus[: devices_here(config)], plan)


def told(gpus: Sequence[Gpu]) -> str:
    """Return GPUs in words, equal ones together."""
    kinds: dict[tuple[str, int], int] = {}
    for gpu in gpus:
        kinds[gpu.name, gpu.gib] = kinds.get((gpu.name, gpu.gib), 0) + 1
    return ", ".join(f"{number} x {name} of {gib} GiB" for (name, gib), number in kinds.items())


def _divisors(shape: ModelShape, devices: int) -> list[int]:
    sizes = [size for size in range(1, devices + 1) if shape.heads % size == 0 and devices % size == 0]
    return [size for size in sizes if shape.kv_heads % size == 0 or size % shape.kv_heads == 0]


def _words(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))


def _largest(parts: Sequence[Part]) -> str:
    largest = sorted(parts, key=lambda part: -part.size)[:3]
    return ", ".join(f"{part.name} {shown(part.size)}" for part in largest)


def _value(config: DictConfig, field: str) -> object:
    from omegaconf import OmegaConf

    return OmegaConf.select(config, field)
