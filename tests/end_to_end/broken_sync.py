"""Negative control: a vLLM worker that drops every weight synchronisation after the first."""

from typing import Any

from trm_agent.verl_plugin.cpu.vllm_worker import CPUWorkerExtension


class BrokenSyncExtension(CPUWorkerExtension):
    """Receives the weights as it should, and loads them only once."""

    num_syncs = 0

    def _update_weights(self, *args: Any, **kwargs: Any) -> Any:
        type(self).num_syncs += 1
        return super()._update_weights(*args, **kwargs) if type(self).num_syncs == 1 else None
