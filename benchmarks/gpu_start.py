"""The check of benchmarks/gpu.py on the start of a run: from the command to the first step's end, in several ways."""

import time
from pathlib import Path

from benchmarks.common import phases, training_rows
from benchmarks.gpu_figures import Figure, Place
from benchmarks.gpu_runs import FIRST_STEP_S, first_step, model, trained

ONE_STEP = (
    "trainer.total_training_steps=1",
    "trainer.save_freq=-1",
    "trainer.test_freq=-1",
    "trainer.val_before_train=false",
)
FORKS, ALONE = "hardware.fork_server=true", "hardware.fork_server=false"
# the engine captures no graphs, and its model is not compiled
EAGER = "actor_rollout_ref.rollout.enforce_eager=true"
# the engine's worker in the engine's process: one process fewer to start
ONE_PROCESS = "+actor_rollout_ref.rollout.engine_kwargs.vllm.distributed_executor_backend=uni"
# the first of them is the default of one machine with a GPU
WAYS = {
    "forks, graphs": (FORKS,),
    "forks, no graphs": (FORKS, EAGER),
    "forks, no graphs, an engine of one process": (FORKS, EAGER, ONE_PROCESS),
    "by themselves, graphs": (ALONE,),
    "by themselves, no graphs": (ALONE, EAGER),
}
# without a GPU there are no graphs, and an engine is one process anyway
SMALL_WAYS = {"forks": (FORKS,), "by themselves": (ALONE,)}


def start(place: Place) -> list[Figure]:
    """Measure the start with workers that are forks and workers that start by themselves, with graphs and without."""
    from trm_agent.models.nano import NanoSpec, ensure_nano_model

    # made before the clock runs
    ensure_nano_model(NanoSpec())
    found, (default, *_) = [], WAYS
    for way, overrides in (SMALL_WAYS if place.small else WAYS).items():
        ceiling = FIRST_STEP_S["nano"] if way == default else None
        found += started(place, "nano", way, overrides, ceiling)
    if not place.small:
        ceiling = FIRST_STEP_S["smollm2"] + weights_s(model(place))
        found += started(place, "smollm2", default, WAYS[default], ceiling)
    return found


def started(place: Place, name: str, way: str, overrides: tuple[str, ...], ceiling: float | None) -> list[Figure]:
    """Start a run of one step; return when its phases and its step ended, and how often a fork was refused.

    Args:
        place: where.
        name: of the model: `nano` or `smollm2`.
        way: how its processes start, for people.
        overrides: the same for the command.
        ceiling: most seconds to the first step's end; None for none.
    """
    folder, began = trained(place, f"experiment=math_{name}", *ONE_STEP, *overrides)
    found = [Figure(f"{name}, {way}: {row['phase']}", row["time"] - began, "s") for row in phases(folder)]
    end = first_step(folder, began, training_rows(folder), ceiling)
    found.append(Figure(f"{name}, {way}: first step's end", end.value, "s", at_most=ceiling))
    if FORKS in overrides:
        found.append(Figure(f"{name}, {way}: refusals to fork", refusals(folder), at_most=0))
    return found


def refusals(folder: Path) -> int:
    """Count the lines of a run's log that say that there was no fork, or why."""
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    words = ("refusing to fork", "starts by itself", "the usual way")
    return sum("fork server" in line and any(each in line for each in words) for line in lines)


def weights_s(path: str) -> float:
    """Return the seconds in which transformers reads a model's weights."""
    from transformers import AutoModelForCausalLM

    began = time.perf_counter()
    AutoModelForCausalLM.from_pretrained(path)
    return time.perf_counter() - began
