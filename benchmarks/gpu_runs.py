"""The checks of benchmarks/gpu.py that are trainings: the same command as a user's, its metrics read afterwards."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import phases, training_rows
from benchmarks.gpu_figures import Figure, Place
from benchmarks.staleness_figures import step_seconds
from benchmarks.staleness_job import COLOCATE, SEPARATE, SYNC, WALL, Job, Result, overrides

# held-out success after 40 steps on a processor, mean of six seeds (docs/experiments.md); points
CPU_SUCCESS = {"4": 75.1, "8": 46.1}
# of which two such runs may differ by their tasks and seeds
TOLERANCE = 8.0
# least rise of a run at a trained horizon, points
LEAST_RISE = 20.0
# from the command to the end of the first step
FIRST_STEP_S = {"nano": 45.0, "smollm2": 60.0}
# milliseconds of a call where a quarter of the tasks has nine of them and the others one
TOOL_MS = 500
# tokens after which a bin of depth ends
DEPTHS = (256, 1024, 4096, 16384)


def on_gpus(number: int) -> tuple[str, ...]:
    """Return the settings of a run whose trainer has so many GPUs, each with an engine of its own."""
    return (
        "hardware=gpu",
        f"trainer.n_gpus_per_node={number}",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.3",
        "actor_rollout_ref.rollout.agent.num_workers=1",
    )


ON_ONE_GPU = on_gpus(1)


def model(place: Place) -> str:
    """Return the folder of the model that kernels are measured with."""
    from trm_agent.models.nano import NanoSpec, ensure_nano_model

    if place.small:
        return str(ensure_nano_model(NanoSpec()))
    from trm_agent.models.smollm2 import ensure_smollm2

    return str(ensure_smollm2())


def trained(place: Place, *overrides: str, gpus: int = 1) -> tuple[Path, float]:
    """Train in a temporary folder; return it, and when the command was given.

    Args:
        place: where.
        overrides: of the command.
        gpus: the trainer's.

    Raises:
        RuntimeError: the command failed; the message is its last words.
    """
    folder = Path(tempfile.mkdtemp(prefix="trm-benchmark-")) / "run"
    machine = () if place.small else on_gpus(gpus)
    command = [sys.executable, "-m", "trm_agent.train", f"run.dir={folder}", *overrides, *machine]
    print(" ".join(command), flush=True)
    started = time.time()
    done = subprocess.run(command)
    if done.returncode:
        raise RuntimeError(f"the training ended with {done.returncode}; see {folder}/log.txt")
    return folder, started


def nano(place: Place) -> list[Figure]:
    """Train the nano model as on a processor; compare its held-out success with that."""
    short = ("trainer.total_training_steps=2", "trainer.test_freq=2", "env.val.num_tasks=4", "env.val.greedy_tasks=0")
    folder, started = trained(place, "experiment=math_nano", "trainer.save_freq=-1", *(short if place.small else ()))
    success = json.loads((folder / "summary.json").read_text())["success"]
    rows = training_rows(folder)
    found = [first_step(folder, started, rows, None if place.small else FIRST_STEP_S["nano"])]
    for horizon, expected in CPU_SUCCESS.items():
        before, after = (100 * success[when][horizon] for when in ("before", "after"))
        floor = None if place.small else expected - TOLERANCE
        found.append(Figure(f"held-out success at horizon {horizon}, before", before, "%"))
        found.append(Figure(f"held-out success at horizon {horizon}, after", after, "%", at_least=floor))
        found.append(
            Figure(f"rise at horizon {horizon}", after - before, "points", at_least=None if place.small else LEAST_RISE)
        )
    return [*found, *speed(rows), *mismatch(folder, rows)]


def smollm2(place: Place) -> list[Figure]:
    """Take steps with a pretrained model at long horizons."""
    steps = 1 if place.small else 20
    short = ("env.train.horizons=[1]", "env.val.horizons=[1]", "env.val.num_tasks=2") if place.small else ()
    sizes = (
        "data.train_batch_size=2",
        "actor_rollout_ref.rollout.n=2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    )
    length = (f"trainer.total_training_steps={steps}", "trainer.save_freq=-1", f"trainer.test_freq={steps}")
    folder, started = trained(place, "experiment=math_smollm2", *length, *short, *(sizes if place.small else ()))
    rows = training_rows(folder)
    first = first_step(folder, started, rows, None if place.small else FIRST_STEP_S["smollm2"])
    success = [
        Figure("sampled success, " + name, 100 * row["env/success"], "%")
        for name, row in (("first step", rows[0]), ("last step", rows[-1]))
    ]
    return [first, *success, *speed(rows), *mismatch(folder, rows)]


def separate(place: Place) -> list[Figure]:
    """Train the nano model with a rollout server on a GPU of its own: weights by NCCL, and without a GPU by TCP.

    Raises:
        RuntimeError: there are no two GPUs.
    """
    _need_two(place)
    steps = 2 if place.small else 20
    length = (f"trainer.total_training_steps={steps}", f"trainer.test_freq={steps}", "trainer.save_freq=-1")
    short = ("env.val.num_tasks=4", "env.val.greedy_tasks=0") if place.small else ()
    folder, started = trained(place, "experiment=math_nano_separate", *length, *short)
    rows = training_rows(folder)
    waited = [row["timing_s/gen"] / row["timing_s/step"] for row in rows[1:] or rows]
    found = [
        first_step(folder, started, rows, None),
        *speed(rows),
        Figure("the trainer waits for episodes, share of a step, median", float(np.median(waited))),
    ]
    for name in sorted({name for row in rows for name in row if name.startswith("trm/acceptance_lag_")}):
        values = [row[name] for row in rows if row.get(name) is not None]
        found.append(Figure(f"acceptance at lag {name.rpartition('_')[2]}, mean", float(np.mean(values))))
    return found


def separate_gain(place: Place) -> list[Figure]:
    """Compare seconds a step on two GPUs: both for a synchronous run, or one for the trainer and one for the server.

    The workload is that of `asynchronous`.

    Raises:
        RuntimeError: there are no two GPUs.
    """
    _need_two(place)
    return _beside_synchronous(place, SEPARATE, gpus=2)


def asynchronous(place: Place) -> list[Figure]:
    """Compare seconds a step, synchronous and not, where some episodes are long: `wall` of benchmarks/staleness.py."""
    return _beside_synchronous(place, COLOCATE, gpus=1)


def _beside_synchronous(place: Place, mode: str, gpus: int) -> list[Figure]:
    """Return the seconds a step and the idle shares of a mode and of a synchronous run with so many GPUs."""
    seconds, found = {}, []
    for side in (SYNC, mode):
        job = Job(WALL, side, seed=0, steps=3 if place.small else 8, tool_ms=TOOL_MS, commit="")
        # `trained` has a folder of its own
        given = [each for each in overrides(job, Path()) if not each.startswith("run.dir=")]
        # servers with devices of their own have one beside the trainer's
        folder, _ = trained(place, *given, gpus=gpus - 1 if side == SEPARATE else gpus)
        rows = training_rows(folder)
        seconds[side] = float(np.mean(step_seconds(Result(job, tuple(rows)))))
        found.append(Figure(f"{side}, seconds a step", seconds[side], "s"))
        for name in ("trainer", "servers"):
            idle = [row[f"run/{name}_idle"] for row in rows if row.get(f"run/{name}_idle") is not None]
            found.append(Figure(f"{side}, {name} idle, mean share", float(np.mean(idle))))
    return [*found, Figure(f"{mode}, times synchronous", seconds[mode] / seconds[SYNC])]


def _need_two(place: Place) -> None:
    import torch

    if not place.small and torch.cuda.device_count() < 2:
        raise RuntimeError(f"two GPUs are needed, and there are {torch.cuda.device_count()}")


def plain_verl(place: Place) -> list[Figure]:
    """Take single-turn steps with verl alone and with ours, on the same card: benchmarks/step_time.py."""
    from benchmarks import step_time

    steps, machine = (4, ()) if place.small else (12, ON_ONE_GPU)
    theirs, ours = step_time.plain_verl(steps, *machine), step_time.ours(steps, *machine)
    tokens = {name: side["response_length"] / side["step"] for name, side in (("verl", theirs), ("ours", ours))}
    found = [Figure(f"{name}, seconds a step", side["step"], "s") for name, side in (("verl", theirs), ("ours", ours))]
    found += [
        Figure(f"{name}, response tokens of an episode by step time", each, "tokens/s") for name, each in tokens.items()
    ]
    return [*found, Figure("ours, times verl", ours["step"] / theirs["step"], at_most=None if place.small else 1.05)]


def memory_plan(place: Place) -> list[Figure]:
    """Compare the peak of an update with the plan's: benchmarks/memory_plan.py."""
    command = [sys.executable, "-m", "benchmarks.memory_plan", "--json"]
    sizes = ["--device", place.device, "--tokens", *(["512"] if place.small else ["2048", "8192"])]
    done = subprocess.run([*command, *sizes], capture_output=True, text=True, check=True, env=dict(os.environ))
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    found = []
    for row in rows:
        found.append(Figure(f"{row['tokens']} tokens, measured", row["measured_mib"], "MiB"))
        ratio = row["planned_mib"] / row["measured_mib"]
        bounds = {} if place.small else {"at_most": 1.2}
        found.append(Figure(f"{row['tokens']} tokens, plan over measured", ratio, **bounds))
    return found


def first_step(folder: Path, started: float, rows: list[dict[str, Any]], ceiling: float | None) -> Figure:
    """Return the seconds from the command to the end of the first step, without the validation before it."""
    ready = next(row["time"] for row in phases(folder) if row["phase"] == "agent loops")
    return Figure(
        "command to first step's end, no validation", ready - started + rows[0]["timing_s/step"], "s", at_most=ceiling
    )


def speed(rows: list[dict[str, Any]]) -> list[Figure]:
    """Return medians over the steps after the first."""
    timed = rows[1:] or rows
    parts = {"a step": "step", "generation": "gen", "update": "update_actor", "weights": "update_weights"}
    found = [
        Figure(f"{name}, median", float(np.median([row[f"timing_s/{key}"] for row in timed])), "s")
        for name, key in parts.items()
    ]
    found.append(
        Figure(
            "sampled tokens by step time, median",
            float(np.median([row["run/tokens_per_s"] for row in timed])),
            "tokens/s",
        )
    )
    peak = max(row["actor/perf/max_memory_allocated_gb"] for row in rows)
    return [*found, Figure("trainer's largest memory", peak, "GB")]


def mismatch(folder: Path, rows: list[dict[str, Any]]) -> list[Figure]:
    """Return acceptance, and the divergence of trainer and engine: over the steps, and by depth in the dumps."""
    found = [
        Figure("acceptance, mean", float(np.mean([row["trm/acceptance"] for row in rows]))),
        Figure("token KL (k3), mean", float(np.mean([row["trm/token_kl_mean_k3"] for row in rows])), "nats"),
        Figure("token KL (k2), largest", max(row["trm/token_kl_k2_max"] for row in rows), "nats"),
    ]
    return [*found, *by_depth(folder / "rollouts")]


def by_depth(dumps: Path) -> list[Figure]:
    """Return mean k3 and the number of sampled tokens by their place in the response."""
    from trm_agent.trust_region.dump import read_dump

    dump = read_dump(dumps)
    log_ratio = np.where(dump.response_mask, dump.log_probs - dump.rollout_log_probs, 0.0)
    k3 = np.expm1(log_ratio) - log_ratio
    places = np.broadcast_to(np.arange(k3.shape[1]), k3.shape)
    found, start = [], 0
    for end in (*DEPTHS, k3.shape[1]):
        inside = dump.response_mask & (places >= start) & (places < end)
        if inside.any():
            found.append(
                Figure(
                    f"token KL (k3), {int(inside.sum())} tokens at {start} to {end - 1}",
                    float(k3[inside].mean()),
                    "nats",
                )
            )
        start = max(start, end)
    return found
