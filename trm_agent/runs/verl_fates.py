"""The fate of verl's fields in a run: honoured, refused or written by us.

`scripts/settings.py` finds, by reading verl's source, the fields that the code reads which we replace, extend or
leave idle. A test holds them against the lists here, so that a field of a newer verl is named until it is decided.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from trm_agent.runs.verl_refusals import refusal_of

FIELDS_FILE = Path(__file__).with_name("verl_fields.json")
# the effect of each is seen by a test of ours
OURS = {
    "data.apply_chat_template_kwargs": "variables of the chat template",
    "data.max_prompt_length": "tokens of the prompt",
    "data.train_max_samples": "training tasks in all",
    "data.val_max_samples": "validation tasks in all",
    "algorithm.adv_estimator": "advantages, groups without a baseline included",
    "algorithm.filter_groups.enable": "groups without signal are replaced",
    "algorithm.filter_groups.max_num_gen_batches": "tasks of a step at most, in batches",
    "algorithm.filter_groups.metric": "what a group is judged by",
    "algorithm.rollout_correction.bypass_mode": "must suit the loss",
    "algorithm.rollout_correction.rollout_is": "must be null with the loss trm",
    "actor_rollout_ref.model.path": "the model; `nano` becomes the folder of the cached one",
    "actor_rollout_ref.rollout.calculate_log_probs": "must be true with the loss trm",
    "actor_rollout_ref.rollout.logprobs_mode": "must be `processed_logprobs`, also as an option of vLLM's own",
    "actor_rollout_ref.rollout.n": "episodes of a task",
    "actor_rollout_ref.rollout.top_k": "may cut the distribution with estimator replayed alone",
    "actor_rollout_ref.rollout.top_p": "may cut the distribution further with estimator replayed alone",
    "trainer.max_actor_ckpt_to_keep": "newest checkpoints that are kept, of all sessions",
    "trainer.resume_mode": "`resume_path` begins a new run after another one's checkpoint",
    "trainer.resume_from_path": "that checkpoint",
    "trainer.v1.sampler.sampler_kwargs": "the fields of our replay buffer",
}
# set after composition: field -> by what
WRITTEN = {
    "run.experiment": "the experiment's name",
    "run.dir": "the run's folder, once it is found or made",
    "run.schedule_from": "the step of the checkpoint from which a schedule restarts, with `--extend`",
    "actor_rollout_ref.actor.optim._target_": "settings of ours, where a schedule restarts",
    "actor_rollout_ref.actor.optim.schedule_from": "`run.schedule_from`",
    "trainer.default_local_dir": "`checkpoints` in the run's folder",
    "trainer.experiment_name": "the environment's, unless it is the experiment's own or the name is given",
    "trainer.resume_mode": "`resume_path` where the run's folder has a checkpoint; else as it is set",
    "trainer.resume_from_path": "the checkpoint in the run's folder, if there is one",
    "trainer.val_before_train": "false where a run resumes, unless a stop left out the validation of its last step",
    "trainer.max_actor_ckpt_to_keep": "null for verl, in whose place our trainer removes checkpoints",
    "trainer.max_critic_ckpt_to_keep": "null for verl, in whose place our trainer removes checkpoints",
    "trainer.v1.sampler.max_off_policy_strategy": "`wait` in an asynchronous run, verl's default in a synchronous one, "
    "unless it is set",
    "transfer_queue.enable": "true, as verl's own task runner does",
    "actor_rollout_ref.model.path": "the folder of the cached model, for `nano` and `smollm2`",
    "actor_rollout_ref.rollout.agent.agent_loop_config_path": "the file that names our agent loop",
    "run.deterministic": "true where turns have seeds, else false",
    "actor_rollout_ref.rollout.enable_chunked_prefill": "false where turns have seeds",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes": "without a GPU what the sequences can fill, "
    "unless it is set",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.distributed_executor_backend": "without a GPU `uni` for an engine of "
    "one process and `mp` for one of several, unless it is set",
    "actor_rollout_ref.rollout.max_num_seqs": "without a GPU at most as many as memory has keys and values for",
    "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes": "without a GPU, where it is the "
    "preset's, room for the model's largest matrix",
    "actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module": "the module of our transfer, where rollout "
    "servers have devices of their own",
    "ray_kwargs.ray_init.num_gpus": "without a GPU the logical devices of the trainer and of such servers",
    "hardware.engine_threads": "as many as suit the model, unless it is set",
    "hardware.least_tokens_per_s": "what model and machine give, unless it is set",
    "env.limits.generate_timeout_s": "what the least rate takes, where both are left open",
    "env.limits.episode_timeout_s": "what the least rate takes, where both are left open",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.max_logprobs": "the estimator's need, unless it is set",
    "actor_rollout_ref.actor.policy_loss.dump.directory": "`rollouts` in the run's folder, unless it is set",
    "hardware.gpu_memory_gib": "on GPUs the memory of this machine's smallest one, unless it is set",
    "data.max_response_length": "on GPUs what fits, where the preset's does not, unless it is set",
    "env.id": "the id alone, where it is given as `MODULE:ID`",
    "env.module": "the module of an id that is given as `MODULE:ID`",
    "env.kwargs.protocol": "the protocol that `auto` finds",
    "env.kwargs.*": "hash of the problems' file, packages of the programs",
}
# read by code of verl's that a run uses as it is: section -> fields
BY_VERL = {
    "actor_rollout_ref": ("hybrid_engine",),
    "actor_rollout_ref.actor": (
        "calculate_entropy",
        "data_loader_seed",
        "engine",
        "entropy_coeff",
        "loss_agg_mode",
        "loss_scale_factor",
        "ppo_epochs",
        "ppo_micro_batch_size_per_gpu",
        "ppo_mini_batch_size",
        "shuffle",
        "strategy",
        "use_dynamic_bsz",
        "use_kl_loss",
    ),
    "actor_rollout_ref.model.lora": ("merge", "rank"),
    "actor_rollout_ref.model": ("lora_adapter_path", "lora_rank"),
    "actor_rollout_ref.model.mtp": ("enable", "enable_rollout"),
    "actor_rollout_ref.ref": ("log_prob_micro_batch_size", "log_prob_micro_batch_size_per_gpu"),
    "actor_rollout_ref.rollout.checkpoint_engine": ("backend",),
    "actor_rollout_ref.rollout.disaggregation": ("enabled",),
    "actor_rollout_ref.rollout": (
        "log_prob_micro_batch_size",
        "log_prob_micro_batch_size_per_gpu",
        "moe_load_balance_metrics_interval",
        "n_gpus_per_node",
        "name",
        "nnodes",
        "seed",
        "temperature",
    ),
    "actor_rollout_ref.rollout.prometheus": ("enable", "file", "port"),
    "actor_rollout_ref.rollout.trace": ("experiment_name", "project_name"),
    "actor_rollout_ref.rollout.val_kwargs": ("n", "temperature", "top_k", "top_p"),
    "algorithm": ("gamma", "kl_penalty", "lam", "norm_adv_by_std_in_grpo", "use_kl_in_reward"),
    "critic": ("data_loader_seed", "enable", "ppo_epochs", "ppo_mini_batch_size", "shuffle"),
    "data": (
        "gen_batch_size",
        "seed",
        "shuffle",
        "train_batch_size",
        "val_batch_size",
        "validation_shuffle",
    ),
    "global_profiler": ("profile_continuous_steps", "steps", "tool"),
    "ray_kwargs": ("timeline_json_file",),
    "trainer.v1": ("trainer_mode",),
    "trainer.v1.colocate_async": ("num_warmup_batches",),
    "trainer.v1.separate_async": ("num_warmup_batches", "parameter_sync_step"),
    "trainer.v1.sampler": ("max_off_policy_strategy", "max_off_policy_threshold"),
    "trainer": (
        "checkpoint_callback_class",
        "critic_warmup",
        "default_hdfs_dir",
        "del_local_ckpt_after_load",
        "device",
        "experiment_name",
        "log_val_generations",
        "logger",
        "n_gpus_per_node",
        "nnodes",
        "project_name",
        "rollout_data_dir",
        "save_freq",
        "test_freq",
        "total_epochs",
        "total_training_steps",
        "val_before_train",
        "validation_data_dir",
    ),
}


@functools.cache
def verl_fields() -> dict[str, Any]:
    """Return what `scripts/settings.py` found in verl."""
    found: dict[str, Any] = json.loads(FIELDS_FILE.read_text(encoding="utf-8"))
    return found


def fate_of(field: str) -> str | None:
    """Return the fate of a field in words; None if it is not decided."""
    if (refusal := refusal_of(field)) is not None:
        with_loss = f" with the loss {refusal.loss}" if refusal.loss else ""
        return f"refused{with_loss}, {refusal.reason}; {refusal.remedy}"
    if field in OURS:
        return f"honoured: {OURS[field]}"
    section, _, name = field.rpartition(".")
    if name in BY_VERL.get(section, ()):
        return "honoured by verl's own code"
    return f"written: {WRITTEN[field]}" if field in WRITTEN else None
