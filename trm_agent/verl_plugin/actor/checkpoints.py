"""Load a rank's checkpoint as data: verl's own calls of `torch.load` would run a program that the file holds."""

import functools
from collections.abc import Callable
from typing import Any

from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

from trm_agent.runs.checkpoint_pickles import weights_only

_MARK = "_trm_agent_weights_only"


def install() -> None:
    """Wrap the loading of FSDP checkpoints in this process. Idempotent."""
    if not getattr(FSDPCheckpointManager.load_checkpoint, _MARK, False):
        manager: Any = FSDPCheckpointManager
        manager.load_checkpoint = read_as_data(manager.load_checkpoint)


def read_as_data(load: Callable[..., Any]) -> Callable[..., Any]:
    """Return `load` with every `torch.load` in it restricted to tensors and plain values."""

    @functools.wraps(load)
    def restricted(*args: Any, **kwargs: Any) -> Any:
        with weights_only():
            return load(*args, **kwargs)

    setattr(restricted, _MARK, True)
    return restricted
