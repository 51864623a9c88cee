"""vLLM worker extension for CPU rollouts, named by `rollout.engine_kwargs.vllm.worker_extension_cls`."""

from typing import Any

from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from trm_agent.verl_plugin.cpu.heap import trim_heap
from trm_agent.verl_plugin.cpu.patches import apply_vllm_patches


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """verl's colocated worker, with vLLM patched before it loads the model."""

    def __new__(cls, **kwargs: Any) -> "CPUWorkerExtension":
        apply_vllm_patches()
        return super().__new__(cls, **kwargs)

    def update_weights_from_ipc(self, *args: Any, **kwargs: Any) -> Any:
        updated = super().update_weights_from_ipc(*args, **kwargs)
        # between two generations
        trim_heap()
        return updated
