"""Whether a run's devices are those of a Ray that runs already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

# written by `ray start`; a driver without an address joins the cluster that it names
RAY_HERE = Path("/tmp/ray/ray_current_cluster")


def cluster_of(config: DictConfig) -> str:
    """Return the Ray that a run joins instead of starting one, in words; "" where it starts its own."""
    from omegaconf import OmegaConf

    named = os.environ.get("RAY_ADDRESS") or OmegaConf.select(config, "ray_kwargs.ray_init.address")
    return str(named) if named else f"the one of {RAY_HERE}" if RAY_HERE.exists() else ""


def is_elsewhere(config: DictConfig) -> bool:
    """Return True if the devices may be those of a cluster that runs already."""
    return bool(cluster_of(config))
