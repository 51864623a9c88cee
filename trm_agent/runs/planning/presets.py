"""The experiments by machine, the nearest one for a machine, and what a preset's yaml says without composing it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXPERIMENTS = Path(__file__).resolve().parent.parent.parent / "conf" / "experiment"


@dataclass(frozen=True)
class Preset:
    """An experiment that is written for a machine."""

    name: str
    """Name in conf/experiment."""
    gpus: int
    """GPUs of one node."""
    gib: int
    """Whole GiB of each that the driver shows at the least: a card of 80 GB has 79 or 80."""

    @property
    def machine(self) -> str:
        """Return the machine in words."""
        return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''} of {self.gib} GiB or more"


# the smallest machine first
PRESETS = (
    Preset("math_1x16gb", 1, 15),
    Preset("math_1x24gb", 1, 22),
    Preset("math_1x80gb", 1, 79),
    Preset("math_4x80gb", 4, 79),
    Preset("math_qwen3_8b", 8, 79),
)
WITHOUT_GPU = "math_nano"


def nearest(gpus: int, gib: int) -> Preset | None:
    """Return the largest preset that a machine can run; None where it has less than the smallest."""
    return next((preset for preset in reversed(PRESETS) if preset.gpus <= gpus and preset.gib <= gib), None)


def nearest_words(gpus: int, gib: int) -> str:
    """Return the override that chooses the nearest preset, for a message."""
    preset = nearest(gpus, gib)
    if preset is not None:
        return f"experiment={preset.name}"
    return f"experiment={WITHOUT_GPU}" + (" hardware=gpu trainer.n_gpus_per_node=1" if gpus else "")


def written(experiment: str, path: str) -> Any:
    """Return what an experiment's yaml, or one that it extends, says of a field; None where none does.

    Args:
        experiment: name in conf/experiment.
        path: dotted path of the field.
    """
    import yaml

    tree = yaml.safe_load((EXPERIMENTS / f"{experiment}.yaml").read_text(encoding="utf-8"))
    value: Any = tree
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if value is not None:
        return value
    extended = [each for each in tree.get("defaults", ()) if isinstance(each, str) and each != "_self_"]
    return next((found for each in extended if (found := written(each, path)) is not None), None)
