"""Without an accelerator parameters are in the host's memory already: nothing is offloaded to it."""

from dataclasses import replace
from typing import Any

import torch
from verl.utils.device import get_device_name


class HostMemoryMixin:
    """A mixin for verl's FSDP engine.

    verl offloads the parameters of every reference, and those of a policy with `offload_policy`, to pinned memory,
    which a machine without an accelerator does not have.
    """

    engine_config: Any

    def _build_fsdp_module(self, module: torch.nn.Module) -> Any:
        given = self.engine_config
        if get_device_name() == "cpu":
            self.engine_config = replace(given, offload_policy=False, forward_only=False)
        try:
            return super()._build_fsdp_module(module)  # type: ignore[misc]
        finally:
            self.engine_config = given
