"""What the server imports, in order: on a machine without a GPU, and where its forks are to use one."""

from collections.abc import Mapping

import device_use

# of this folder, before any module that decorates an actor
CLASS_IDS = "class_ids"
# none of which asks for a device
BOTH = (
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "torch.utils.tensorboard",
    "pandas",
    "tensordict",
    "torchdata.stateful_dataloader",
    "transformers.models.auto.modeling_auto",
    "peft",
    "datasets",
    "gymnasium",
    "hydra",
)
# what the processes of a run import: loaded once, and its pages shared
WITHOUT_GPU = (
    *BOTH,
    CLASS_IDS,
    "transfer_queue",
    "verl.trainer.main_ppo",
    # the larger parts of the next one: requests are heard in between
    "torch._inductor.ir",
    "torch._inductor.lowering",
    "openai.types",
    "vllm.config",
    "verl.trainer.ppo.v1",
    "verl.workers.engine_workers",
    "trm_agent.verl_plugin.extension",
    "trm_agent.verl_plugin.driver.trainer",
    "trm_agent.verl_plugin.driver.dataset",
    "trm_agent.verl_plugin.rollout.agent_loop",
    "vllm.entrypoints.openai.chat_completion.protocol",
    "vllm.entrypoints.openai.responses.protocol",
    "vllm.entrypoints.openai.api_server",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "vllm.model_executor.models.qwen2",
    "vllm.model_executor.models.qwen3",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.core.sched.scheduler",
    "vllm.v1.engine.input_processor",
    "vllm.v1.engine.output_processor",
    "trm_agent.verl_plugin.rollout.recording_server",
    "trm_agent.verl_plugin.rollout.beside_server",
    "trm_agent.verl_plugin.rollout.episodes_worker",
    "trm_agent.verl_plugin.actor.known_configs",
)
# neither verl, which asks CUDA for its devices as it is imported, nor vLLM, which asks the driver's library, nor what
# torch compiles with, which asks CUDA in torch 2.11 (`_inductor/runtime/benchmarking.py`): what they need of others,
# none of which asks for a device
WITH_GPU = (
    *BOTH,
    CLASS_IDS,
    "ray",
    "transfer_queue",
    "openai.types",
    "fastapi",
)


def preloads(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the modules for a server with this environment."""
    return WITH_GPU if device_use.may_use_gpu(env) else WITHOUT_GPU
