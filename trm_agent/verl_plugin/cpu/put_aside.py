"""A patch of verl's way to put a policy aside, for processes that train on a CPU."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from trm_agent.verl_plugin.cpu.patches import _MARK, VERL_VERSION, is_patched, require_version

Saved = tuple[dict[str, tuple[torch.Tensor, Any]], Any]


def copied(save: Callable[..., Saved]) -> Callable[..., Saved]:
    """verl/utils/fsdp_utils.py puts parameters aside with `cpu()`, which returns a tensor of the CPU itself.

    `separate_async` puts the policy of a step's beginning aside for the later updates of the step: without a copy it
    goes on learning, and what is brought back is the present one.
    """

    @functools.wraps(save)
    def saving(model: torch.nn.Module) -> Saved:
        parameters, spec = save(model)
        return {name: (tensor.clone(), own) for name, (tensor, own) in parameters.items()}, spec

    setattr(saving, _MARK, True)
    return saving


def apply_trainer_patches() -> None:
    """Apply the patch in a process that has imported verl's FSDP engine. Idempotent.

    Raises:
        RuntimeError: another version of verl is installed.
    """
    import verl.utils.fsdp_utils as fsdp_utils

    require_version("copied", "verl", VERL_VERSION)
    if not is_patched(fsdp_utils.fsdp2_sharded_save_to_cpu):
        fsdp_utils.fsdp2_sharded_save_to_cpu = copied(fsdp_utils.fsdp2_sharded_save_to_cpu)
