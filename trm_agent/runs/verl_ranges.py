"""Ranges and choices of verl's fields, which it and its engine would check minutes later, or never."""

from __future__ import annotations

from trm_agent.runs.estimators import GROUP_ESTIMATORS, OTHER_ESTIMATORS
from trm_agent.runs.verl_choices import CHOICES
from trm_fields import COUNT, LEAST_0, SHARE, ZERO_TO_ONE, Allowed, Number, OneOf, Text

_ACTOR = "actor_rollout_ref.actor"
_ROLLOUT = "actor_rollout_ref.rollout"
_ABOVE_0 = Number("above 0", lambda value: value > 0)
_FROM_0 = Number("of 0 or more", lambda value: value >= 0)
_WHOLE = Number(kind=int)
_OPTIONAL_COUNT = Number("of 1 or more", lambda value: value >= 1, optional=True, kind=int)
RANGES: dict[str, Allowed] = {
    **CHOICES,
    "trainer.total_training_steps": COUNT,
    "trainer.total_epochs": COUNT,
    "trainer.save_freq": _WHOLE,
    "trainer.test_freq": _WHOLE,
    "trainer.nnodes": COUNT,
    "trainer.n_gpus_per_node": COUNT,
    "trainer.log_val_generations": LEAST_0,
    "trainer.v1.colocate_async.num_warmup_batches": _FROM_0,
    "trainer.v1.separate_async.num_warmup_batches": _FROM_0,
    "trainer.v1.separate_async.parameter_sync_step": COUNT,
    "trainer.v1.sampler.max_off_policy_threshold": _OPTIONAL_COUNT,
    "trainer.critic_warmup": LEAST_0,
    "trainer.max_actor_ckpt_to_keep": _OPTIONAL_COUNT,
    "trainer.max_critic_ckpt_to_keep": _OPTIONAL_COUNT,
    "trainer.project_name": Text(),
    "trainer.experiment_name": Text(without="/", filled=True),
    "ray_kwargs.ray_init.num_cpus": _OPTIONAL_COUNT,
    "data.train_batch_size": COUNT,
    "data.max_prompt_length": COUNT,
    "data.max_response_length": COUNT,
    "data.gen_batch_size": _OPTIONAL_COUNT,
    "data.val_batch_size": _OPTIONAL_COUNT,
    "data.seed": Number("of 0 or more", lambda value: value >= 0, optional=True, kind=int),
    "data.train_max_samples": _WHOLE,
    "data.val_max_samples": _WHOLE,
    "algorithm.adv_estimator": OneOf(sorted(GROUP_ESTIMATORS | OTHER_ESTIMATORS)),
    "algorithm.filter_groups.max_num_gen_batches": LEAST_0,
    "algorithm.gamma": ZERO_TO_ONE,
    "algorithm.lam": ZERO_TO_ONE,
    "actor_rollout_ref.model.lora_rank": LEAST_0,
    f"{_ACTOR}.ppo_epochs": COUNT,
    f"{_ACTOR}.ppo_mini_batch_size": COUNT,
    f"{_ACTOR}.ppo_micro_batch_size_per_gpu": _OPTIONAL_COUNT,
    f"{_ACTOR}.ppo_max_token_len_per_gpu": COUNT,
    f"{_ACTOR}.entropy_coeff": Number(),
    f"{_ACTOR}.kl_loss_coef": _FROM_0,
    f"{_ACTOR}.optim.lr": _FROM_0,
    f"{_ACTOR}.optim.weight_decay": _FROM_0,
    f"{_ACTOR}.optim.clip_grad": _ABOVE_0,
    f"{_ACTOR}.optim.lr_warmup_steps": _WHOLE,
    f"{_ACTOR}.optim.lr_warmup_steps_ratio": ZERO_TO_ONE,
    "critic.optim.lr": _FROM_0,
    "critic.optim.weight_decay": _FROM_0,
    "critic.optim.clip_grad": _ABOVE_0,
    "critic.optim.lr_warmup_steps_ratio": ZERO_TO_ONE,
    "critic.cliprange_value": _ABOVE_0,
    "critic.ppo_epochs": COUNT,
    "critic.ppo_mini_batch_size": COUNT,
    "actor_rollout_ref.ref.log_prob_micro_batch_size": _OPTIONAL_COUNT,
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": _OPTIONAL_COUNT,
    "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": COUNT,
    f"{_ROLLOUT}.n": COUNT,
    f"{_ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes": _OPTIONAL_COUNT,
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
LOOSE = ("trainer.logger",)
