"""Ranges and choices of verl's fields, which it and its engine would check minutes later, or never."""

from __future__ import annotations

from trm_agent.runs.estimators import GROUP_ESTIMATORS, OTHER_ESTIMATORS
from trm_fields import COUNT, LEAST_0, SHARE, ZERO_TO_ONE, Allowed, Number, OneOf, Several, Text

_ACTOR = "actor_rollout_ref.actor"
_ROLLOUT = "actor_rollout_ref.rollout"
_ABOVE_0 = Number("above 0", lambda value: value > 0)
_FROM_0 = Number("of 0 or more", lambda value: value >= 0)
_WHOLE = Number(kind=int)
_OPTIONAL_COUNT = Number("of 1 or more", lambda value: value >= 1, optional=True, kind=int)
_KL = tuple(f"{name}{end}" for name in ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3") for end in ("", "+"))
_PRECISION = OneOf(("fp32", "float32", "bf16", "bfloat16", "fp16", "float16"))
_CONTENTS = Several(OneOf(("model", "optimizer", "extra", "hf_model")))
RANGES: dict[str, Allowed] = {
    "trainer.total_training_steps": COUNT,
    "trainer.total_epochs": COUNT,
    "trainer.save_freq": _WHOLE,
    "trainer.test_freq": _WHOLE,
    "trainer.nnodes": COUNT,
    "trainer.n_gpus_per_node": COUNT,
    "trainer.log_val_generations": LEAST_0,
    "trainer.critic_warmup": LEAST_0,
    "trainer.max_actor_ckpt_to_keep": _OPTIONAL_COUNT,
    "trainer.max_critic_ckpt_to_keep": _OPTIONAL_COUNT,
    "trainer.device": OneOf(("cpu", "cuda", "npu")),
    "trainer.project_name": Text(),
    "trainer.experiment_name": Text(without="/", filled=True),
    "ray_kwargs.ray_init.num_cpus": _OPTIONAL_COUNT,
    "data.train_batch_size": COUNT,
    "data.max_prompt_length": COUNT,
    "data.max_response_length": COUNT,
    "data.gen_batch_size": _OPTIONAL_COUNT,
    "data.val_batch_size": _OPTIONAL_COUNT,
    "data.dataloader_num_workers": LEAST_0,
    "data.train_max_samples": _WHOLE,
    "data.val_max_samples": _WHOLE,
    "algorithm.adv_estimator": OneOf(sorted(GROUP_ESTIMATORS | OTHER_ESTIMATORS)),
    "algorithm.gamma": ZERO_TO_ONE,
    "algorithm.lam": ZERO_TO_ONE,
    "algorithm.kl_penalty": OneOf(_KL),
    "algorithm.kl_ctrl.type": OneOf(("fixed", "adaptive")),
    "actor_rollout_ref.model.lora_rank": LEAST_0,
    f"{_ACTOR}.strategy": OneOf(("fsdp", "fsdp2", "megatron", "veomni", "torchtitan")),
    f"{_ACTOR}.fsdp_config.model_dtype": _PRECISION,
    f"{_ACTOR}.fsdp_config.dtype": _PRECISION,
    f"{_ACTOR}.checkpoint.save_contents": _CONTENTS,
    f"{_ACTOR}.checkpoint.load_contents": _CONTENTS,
    f"{_ACTOR}.kl_loss_type": OneOf(_KL),
    f"{_ACTOR}.ppo_epochs": COUNT,
    f"{_ACTOR}.ppo_mini_batch_size": COUNT,
    f"{_ACTOR}.ppo_micro_batch_size_per_gpu": _OPTIONAL_COUNT,
    f"{_ACTOR}.ppo_max_token_len_per_gpu": COUNT,
    f"{_ACTOR}.entropy_coeff": Number(),
    f"{_ACTOR}.kl_loss_coef": _FROM_0,
    f"{_ACTOR}.loss_agg_mode": OneOf(
        ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
    ),
    f"{_ACTOR}.optim.lr": _FROM_0,
    f"{_ACTOR}.optim.weight_decay": _FROM_0,
    f"{_ACTOR}.optim.clip_grad": _ABOVE_0,
    f"{_ACTOR}.optim.lr_warmup_steps": _WHOLE,
    f"{_ACTOR}.optim.lr_warmup_steps_ratio": ZERO_TO_ONE,
    f"{_ACTOR}.optim.lr_scheduler_type": OneOf(("constant", "cosine")),
    f"{_ROLLOUT}.name": OneOf(("vllm", "sglang", "trtllm")),
    f"{_ROLLOUT}.dtype": OneOf(("auto", "half", "float16", "bfloat16", "float", "float32")),
    f"{_ROLLOUT}.n": COUNT,
    f"{_ROLLOUT}.temperature": Number(),
    f"{_ROLLOUT}.top_p": SHARE,
    f"{_ROLLOUT}.gpu_memory_utilization": SHARE,
    f"{_ROLLOUT}.max_model_len": _OPTIONAL_COUNT,
    f"{_ROLLOUT}.max_num_seqs": COUNT,
    f"{_ROLLOUT}.max_num_batched_tokens": COUNT,
    f"{_ROLLOUT}.tensor_model_parallel_size": COUNT,
    f"{_ROLLOUT}.data_parallel_size": COUNT,
    f"{_ROLLOUT}.pipeline_model_parallel_size": COUNT,
    f"{_ROLLOUT}.agent.num_workers": COUNT,
    f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu": _OPTIONAL_COUNT,
    f"{_ROLLOUT}.val_kwargs.n": COUNT,
    f"{_ROLLOUT}.val_kwargs.temperature": _FROM_0,
    f"{_ROLLOUT}.val_kwargs.top_p": SHARE,
}
# fields whose type verl does not declare as it reads them
LOOSE = ("trainer.logger", "global_profiler.steps")
