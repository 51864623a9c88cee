"""verl's FSDP engine with the metrics of our policy loss aggregated as they should be."""

from typing import Any

import torch
from tensordict import TensorDict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from verl.utils.device import get_device_name
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from trm_agent.verl_plugin.policy_loss import collect_metrics


class TrmFSDPEngine(FSDPEngineWithLMHead):
    """verl averages whatever a policy loss reports over micro-batches; sums, minima and maxima need their own rule.

    The `trm` loss leaves its metrics, each with its aggregation, in a collector; they join the micro-batch's metrics
    here.
    """

    def initialize(self) -> None:
        super().initialize()
        wrapped = isinstance(self.module, FSDP | FSDPModule)
        parameters = sum(parameter.numel() for parameter in self.module.parameters())
        backend = torch.distributed.get_backend()
        print(f"engine: FSDP {wrapped}, backend {backend}, {parameters} parameters", flush=True)

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Any, forward_only: bool
    ) -> tuple[torch.Tensor, dict]:
        with collect_metrics() as collected:
            loss, output = super().forward_step(micro_batch, loss_function, forward_only)
        output["metrics"].update(collected)
        return loss, output


def register() -> None:
    """Put the engine where verl looks for FSDP.

    verl has no engine for `cpu`; on CUDA it looks a vendor's engine up before its own, so nothing is replaced.
    """
    backends = ["fsdp", "fsdp2"]
    if get_device_name() == "cpu":
        EngineRegistry.register(model_type="language_model", backend=backends, device="cpu")(TrmFSDPEngine)
        EngineRegistry.register(model_type="value_model", backend=backends, device="cpu")(FSDPEngineWithValueHead)
    else:
        EngineRegistry.register(model_type="language_model", backend=backends, device="cuda", vendor="nvidia")(
            TrmFSDPEngine
        )
