"""Closed sets of names among verl's fields, each as verl reads it: it would raise in a worker, or take another path."""

from __future__ import annotations

from collections.abc import Iterator

from trm_fields import Allowed, Number, OneOf, Several

_ACTOR, _REF, _CRITIC = "actor_rollout_ref.actor", "actor_rollout_ref.ref", "critic"
_ROLLOUT, _MODEL, _PROFILER = "actor_rollout_ref.rollout", "actor_rollout_ref.model", "global_profiler"
KL = tuple(f"{name}{end}" for name in ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3") for end in ("", "+"))
_PRECISIONS = ("fp32", "float32", "bf16", "bfloat16", "fp16", "float16")
PRECISION = OneOf(_PRECISIONS)
_STRATEGIES = ("fsdp", "fsdp2", "megatron", "veomni", "torchtitan")
# an engine without a model of values
_STRATEGY = OneOf((*_STRATEGIES, "fsdp_turbo"))
_CONTENTS = Several(OneOf(("model", "optimizer", "extra", "hf_model")))
_SCHEDULES = ("constant", "cosine")
_AGGREGATION = OneOf(
    ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
)
_STEPS = Several(Number("of 0 or more", lambda value: value >= 0, kind=int), least=0)
_BETAS = Several(Number("from 0 to below 1", lambda value: 0 <= value < 1), least=2)
_TOOL = OneOf(("nsys", "npu", "torch", "torch_memory", "precision_debugger"), optional=True)


def _trained(section: str) -> Iterator[tuple[str, Allowed]]:
    """Yield the choices of a model that is trained."""
    yield f"{section}.strategy", OneOf(_STRATEGIES) if section == _CRITIC else _STRATEGY
    yield f"{section}.checkpoint.save_contents", _CONTENTS
    yield f"{section}.checkpoint.load_contents", _CONTENTS
    yield f"{section}.loss_agg_mode", _AGGREGATION
    yield f"{section}.optim.lr_scheduler_type", OneOf(_SCHEDULES)
    yield f"{section}.optim.warmup_style", OneOf(_SCHEDULES, optional=True)
    yield f"{section}.optim.betas", _BETAS


def _engine(section: str) -> Iterator[tuple[str, Allowed]]:
    """Yield the choices of an FSDP engine."""
    yield f"{section}.strategy", OneOf(("fsdp", "fsdp2", "fsdp_turbo"))
    yield f"{section}.model_dtype", OneOf((*_PRECISIONS, "32", "16"))
    yield f"{section}.dtype", PRECISION
    yield from _quantized(f"{section}.qat")


def _quantized(section: str) -> Iterator[tuple[str, Allowed]]:
    yield f"{section}.mode", OneOf(("w4a16", "w4a4"))
    yield f"{section}.activation_observer", OneOf(("static_minmax", "memoryless_minmax", "minmax"))


def _model(section: str) -> Iterator[tuple[str, Allowed]]:
    yield f"{section}.fused_kernel_options.impl_backend", OneOf(("torch", "triton", "liger"))
    yield f"{section}.lora.type", OneOf(("lora", "vlm_lora", "canonical_lora", "dora"))
    yield f"{section}.lora.dropout_position", OneOf(("pre", "post"))


def _profiled(section: str) -> Iterator[tuple[str, Allowed]]:
    """Yield the choices of a worker's profiler."""
    tools = f"{section}.tool_config"
    yield f"{section}.tool", _TOOL
    yield f"{section}.ranks", _STEPS
    yield f"{section}.finish_hook_ranks", _STEPS
    yield f"{tools}.npu.contents", Several(OneOf(("npu", "cpu", "memory", "shapes", "module", "stack")), least=0)
    yield f"{tools}.npu.level", OneOf(("level_none", "level0", "level1", "level2"))
    yield f"{tools}.torch.contents", Several(OneOf(("cuda", "cpu", "memory", "shapes", "stack")), least=0)
    yield f"{tools}.precision_debugger.steps", Several(_STEPS.item, least=0, optional=True)


# verl's engine of HCCL has the name nccl too; tcp is ours
BACKENDS = OneOf(("naive", "tcp", "nccl", "nixl", "mooncake", "kimi_ckpt_engine", "delta_sharded"))
CHOICES: dict[str, Allowed] = {
    **dict(_trained(_ACTOR)),
    **dict(_trained(_CRITIC)),
    **dict(_engine(f"{_ACTOR}.fsdp_config")),
    **dict(_engine(f"{_REF}.fsdp_config")),
    **dict(_engine(f"{_CRITIC}.fsdp")),
    **dict(_quantized(f"{_ACTOR}.qat")),
    **dict(_model(_MODEL)),
    **dict(_model(f"{_CRITIC}.model")),
    **{
        field: allowed
        for section in (_ACTOR, _REF, _ROLLOUT, _CRITIC)
        for field, allowed in _profiled(f"{section}.profiler")
    },
    f"{_ACTOR}.kl_loss_type": OneOf(KL),
    f"{_REF}.strategy": _STRATEGY,
    f"{_ROLLOUT}.name": OneOf(("vllm", "sglang", "trtllm")),
    f"{_ROLLOUT}.dtype": OneOf(("auto", "half", "float16", "bfloat16", "float", "float32")),
    f"{_ROLLOUT}.mode": OneOf(("async",)),
    f"{_ROLLOUT}.quantization": OneOf(("fp8", "torchao", "ascend"), optional=True),
    f"{_ROLLOUT}.cudagraph_capture_sizes": Several(_STEPS.item, optional=True),
    f"{_ROLLOUT}.disaggregation.transfer_backend": OneOf(("nixl", "mooncake", "ascend", "mori", "fake")),
    "algorithm.kl_penalty": OneOf(KL),
    "algorithm.kl_ctrl.type": OneOf(("fixed", "adaptive")),
    "algorithm.rollout_correction.rollout_is": OneOf(("token", "sequence"), optional=True),
    "trainer.device": OneOf(("cpu", "cuda", "npu")),
    "trainer.v1.trainer_mode": OneOf(("sync", "colocate_async", "separate_async")),
    "trainer.v1.sampler.max_off_policy_strategy": OneOf(("wait", "drop")),
    "transfer_queue.backend.storage_backend": OneOf(("SimpleStorage", "MooncakeStore", "RayStore", "Yuanrong")),
    f"{_PROFILER}.tool": _TOOL,
    f"{_PROFILER}.steps": Several(_STEPS.item, least=0, optional=True),
    f"{_PROFILER}.finish_hook_ranks": _STEPS,
    f"{_PROFILER}.global_tool_config.precision_debugger.steps": Several(_STEPS.item, least=0, optional=True),
    f"{_PROFILER}.global_tool_config.torch_memory.context": OneOf(("state", "alloc", "all"), optional=True),
    f"{_PROFILER}.global_tool_config.torch_memory.stacks": OneOf(("python", "all")),
}
