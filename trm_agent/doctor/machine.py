"""The machine: accelerators, processors, memory, disk, ports, and whether untrusted programs can be isolated."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from trm_agent.doctor.finding import Finding, State, ok
from trm_agent.runs.compose import NVIDIA_DEVICE
from trm_agent.runs.hidden_gpus import VARIABLE, hides_all
from trm_agent.runs.planning.host import free_memory_gib
from trm_agent.runs.planning.machine import (
    LEAST_CAPABILITY,
    Gpu,
    is_older,
    least_driver,
    read_gpus,
    remedy_of,
    torch_cuda,
)
from trm_agent.runs.programs import output_of

GIB = 1 << 30
LEAST_MEMORY_GIB, LEAST_CORES, NUM_PORTS = 6.0, 2, 16
# Ray makes no objects on a fuller file system
FULLEST = 0.95
# folder, its contents, least GiB
PLACES = (
    (Path.cwd, "runs", 1.0),
    (lambda: Path.home() / ".cache", "models that were made or downloaded", 1.0),
    (lambda: Path(tempfile.gettempdir()), "Ray's session", 1.0),
    (lambda: Path("/dev/shm"), "weights and Ray's objects", 0.25),
)
SANDBOX_LIMIT_S = 18.0


def gpus() -> list[Finding]:
    """List the accelerators with their memory."""
    if hides_all(os.environ):
        return [
            ok(f"hidden by {VARIABLE}={os.environ[VARIABLE]}: the default is experiment=math_nano, on the processor")
        ]
    found, why = read_gpus()
    if not found:
        if NVIDIA_DEVICE.exists():
            told = f"{NVIDIA_DEVICE} is there, and nvidia-smi lists none ({why})"
            return [Finding("missing", told, f"{remedy_of(why)}, or choose experiment=math_nano")]
        return [ok("none: the default is experiment=math_nano, on the processor")]
    return [_gpu(gpu) for gpu in found]


def _gpu(gpu: Gpu) -> Finding:
    told = f"{gpu.index}: {gpu.name}, {gpu.total / GIB:.0f} GiB, {gpu.free / GIB:.0f} GiB free"
    driver = least_driver(torch_cuda())
    state: State = "missing"
    if is_older(gpu.capability, LEAST_CAPABILITY):
        remedy = f"take GPUs of compute capability {LEAST_CAPABILITY} or newer"
        return Finding(state, f"{told}: compute capability {gpu.capability}", remedy)
    if is_older(gpu.driver, driver):
        return Finding(state, f"{told}: driver {gpu.driver}", f"update it to {driver} or newer")
    if not gpu.is_free:
        remedy = "end what uses it (nvidia-smi), or leave it out with CUDA_VISIBLE_DEVICES"
        return Finding("warning", f"{told}: in use", remedy)
    return ok(told)


def processor() -> list[Finding]:
    """Report the cores and the memory that this process may use."""
    cores = len(os.sched_getaffinity(0))
    told = f"{cores} cores"
    findings = [ok(told)]
    if cores < LEAST_CORES:
        findings = [Finding("warning", f"{told}; trainer and engine share it", "give the process two cores")]
    free = free_memory_gib()
    told = f"{free:.1f} GiB of memory are free"
    if free < LEAST_MEMORY_GIB:
        remedy = f"end other programs: a run on the processor takes up to {LEAST_MEMORY_GIB:g} GiB"
        return [*findings, Finding("warning", told, remedy)]
    return [*findings, ok(told)]


def disk() -> list[Finding]:
    """Report the free space where a run writes."""
    return [_room(place(), what, least) for place, what, least in PLACES]


def _room(folder: Path, what: str, least_gib: float) -> Finding:
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    told = f"{folder}: {usage.free / GIB:.1f} GiB free for {what}"
    if not os.access(folder, os.W_OK):
        return Finding(
            "missing", f"{folder} is read-only, and holds {what}", "start in another folder, or change its owner"
        )
    if usage.free < least_gib * GIB:
        return Finding("missing", f"{told}, {least_gib:g} are needed", "make room, or start in another folder")
    if usage.used > FULLEST * usage.total:
        return Finding("warning", f"{told}, over {FULLEST:.0%} full", "make room: Ray may refuse to write there")
    return ok(told)


def ports() -> list[Finding]:
    """Look for free ports for Ray and the engine, and for another Ray in the way."""
    findings = []
    if address := os.environ.get("RAY_ADDRESS"):
        told = f"RAY_ADDRESS={address}: training would join that Ray instead of starting one"
        findings.append(Finding("warning", told, "unset it to train on this machine alone"))
    sockets: list[socket.socket] = []
    try:
        for _ in range(NUM_PORTS):
            sockets.append(socket.create_server(("127.0.0.1", 0)))
        return [*findings, ok(f"{NUM_PORTS} on 127.0.0.1 could be opened")]
    except OSError as error:
        told = f"only {len(sockets)} of {NUM_PORTS} on 127.0.0.1 could be opened: {error.strerror}"
        return [*findings, Finding("missing", told, "allow local sockets, raise ulimit -n")]
    finally:
        for each in sockets:
            each.close()


def sandbox() -> list[Finding]:
    """Try whether a program can be run in isolation, and which limits hold by control groups."""
    answer, why = output_of([sys.executable, "-m", "trm_agent.cli", "sandbox", "check", "--json"], SANDBOX_LIMIT_S)
    if answer is not None:
        missing = {limit["name"]: limit["missing"] for limit in json.loads(answer)["limits"] if limit["missing"]}
        ran = ok("a program ran in isolation (sandbox=local)")
        if "memory" not in missing:
            return [ran]
        without = f"no control group for {', '.join(missing)}: programs are watched instead (trm sandbox check)"
        return [ran, Finding("warning", without, missing["memory"])]
    remedy = "apt-get install bubblewrap and allow user namespaces, or env.kwargs.sandbox=URL (docs/sandbox.md)"
    told = f"no program can be isolated here, so only tasks without programs can be played, such as ChainMath ({why})"
    return [Finding("warning", told, remedy)]
