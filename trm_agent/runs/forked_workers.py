"""Whether a run's processes start as forks of one that has done the imports: `hardware.fork_server`."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from trm_agent.runs.elsewhere import cluster_of
from trm_fields import refuse

if TYPE_CHECKING:
    from omegaconf import DictConfig

FIELD = "hardware.fork_server"
# whose way to start a worker is known
RAY_VERSION = "2.60.0"


def forks(config: DictConfig) -> bool:
    """Return True if the workers are forks: as set, and where it is left open, where they can be."""
    wanted = config.hardware.fork_server
    return not why_not(config) if wanted is None else bool(wanted)


def why_not(config: DictConfig) -> str:
    """Return why the workers of a run cannot be forks of a server of the command's; "" where they can."""
    from omegaconf import OmegaConf

    if int(config.trainer.nnodes) > 1:
        return f"trainer.nnodes={config.trainer.nnodes}, and a server starts the processes of its own machine"
    if cluster := cluster_of(config):
        return f"a Ray that runs already ({cluster}) starts its workers itself"
    if OmegaConf.select(config, "global_profiler.tool") == "nsys":
        return "global_profiler.tool=nsys, whose profile of the driver begins with its interpreter"
    installed = _ray_version()
    return "" if installed == RAY_VERSION else f"it was written for ray {RAY_VERSION}, and {installed} is installed"


def fork_server(config: DictConfig) -> None:
    """Refuse forks where the workers cannot be; without a GPU a Ray that is elsewhere goes on without them.

    Raises:
        ValueError: with the reason.
    """
    if config.hardware.fork_server and config.hardware.kind == "gpu" and (because := why_not(config)):
        refuse(FIELD, True, "null or false", "leave it open", because=f"but {because}")


def told_start(config: DictConfig) -> str:
    """Return how the processes of a run on GPUs start, in a line; "" without a GPU."""
    if config.hardware.kind != "gpu":
        return ""
    if forks(config):
        return f"start: workers are forks of one process that has done the imports ({FIELD}=false: each by itself)"
    because = f"{FIELD}=false" if config.hardware.fork_server is False else why_not(config)
    return f"start: each worker by itself, since {because}"


def _ray_version() -> str:
    try:
        return importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return "none"
