"""The fields of verl that a run refuses when they differ from their default, with the reason and the remedy."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from trm_agent.trust_region.surroundings import AGENT_LOOP, LOSS_MODE

_ROLLOUT = "actor_rollout_ref.rollout"
_ACTOR = "actor_rollout_ref.actor"
_TURNS = f"{_ROLLOUT}.multi_turn"
_SAMPLER = "trainer.v1.sampler"
_V1 = "trainer.v1"
_LEAVE = "leave it out"


@dataclass(frozen=True)
class Refused:
    """Fields that a run cannot honour."""

    fields: tuple[str, ...]
    """Dotted paths, with all that is below; `.*` marks a section."""
    reason: str
    """Clause that goes on after the value."""
    remedy: str = _LEAVE
    """Imperative clause."""
    allowed: tuple[Any, ...] = ()
    """Allowed values; empty for verl's default."""
    loss: str = ""
    """Loss with which they are refused; "" for any."""

    def covers(self, field: str) -> bool:
        """Return True if a field is one of these."""
        sections = (name.removesuffix(".*") for name in self.fields)
        return any(f"{field}.".startswith(f"{section}.") for section in sections)


def _each(section: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names)


REFUSED = (
    Refused(
        _each("data", "custom_cls.path", "custom_cls.name"),
        "but tasks come from the environment",
        "choose one with env=, or write it (docs/write_an_env.md)",
        allowed=("pkg://trm_agent.verl_plugin.driver.dataset", "EnvDataset"),
    ),
    Refused(
        _each("data", "train_files", "val_files"),
        "but tasks come from the environment",
        "choose one with env=, or give it a file of problems (docs/rows.md)",
        allowed=("train", "val"),
    ),
    Refused(
        _each("data", "prompt_key", "image_key", "video_key", "audio_key", "reward_fn_key", "cache_dir", "use_shm")
        + _each("data", "return_raw_chat", "return_full_prompt", "return_raw_input_ids", "return_multi_modal_inputs")
        + _each("data", "need_tools_kwargs", "image_patch_size", "mm_processor_kwargs"),
        "but no rows of a file are read: the prompt comes from the environment's reset",
    ),
    Refused(
        _each("data", "filter_overlong_prompts", "filter_overlong_prompts_workers", "filter_prompts", "truncation"),
        "but no prompt is dropped or cut",
        "raise data.max_prompt_length, which the checks before Ray hold against the solver's prompt",
    ),
    Refused(
        ("data.dataloader_num_workers",),
        "but a loader's own processes would not tell how many tasks are drawn, and would hold copies of a curriculum "
        "that learn nothing",
        allowed=(0,),
    ),
    Refused(
        ("data.chat_template_func", "actor_rollout_ref.model.custom_chat_template"),
        "but prompts, masks and protocol are made from the template in the model's folder",
        "save the template there (docs/chat_templates.md)",
    ),
    Refused(
        ("actor_rollout_ref.model.tokenizer_path", "data.tokenizer"),
        "but tokens and checks use the tokenizer in the model's folder",
        "save it there, or give a folder that has both as actor_rollout_ref.model.path",
    ),
    Refused(
        _each("data", "tool_config_path", "function_tool_path")
        + _each(_TURNS, "tool_config_path", "function_tool_path"),
        "but tools come from the environment",
        "write them there (docs/write_an_env.md)",
    ),
    Refused(_each(_TURNS, "max_user_turns", "max_assistant_turns"), "which no run reads", "set env.limits.max_turns"),
    Refused((f"{_TURNS}.max_parallel_calls",), "which no run reads", "set env.limits.max_tool_calls"),
    Refused(
        _each(_TURNS, "max_tool_response_length", "tool_response_truncate_side"),
        "which no run reads",
        "set env.limits.max_observation_tokens; the end is cut",
    ),
    Refused((f"{_TURNS}.format",), "which no run reads", "set env.kwargs.protocol (docs/protocols.md)"),
    Refused((f"{_ROLLOUT}.prompt_length",), "but it follows data.max_prompt_length", "set that"),
    Refused((f"{_ROLLOUT}.response_length",), "but it follows data.max_response_length", "set that"),
    Refused(
        (f"{_ROLLOUT}.full_determinism",),
        "but an episode's requests have random ids and episodes end in the order of the clock",
        "set seed, which fixes tasks and sampling",
    ),
    Refused(
        (f"{_ROLLOUT}.agent.default_agent_loop",),
        "but only our loop plays environments",
        "take verl's own command for another loop (docs/own_verl_script.md)",
        allowed=(AGENT_LOOP,),
    ),
    Refused(
        _each(f"{_ROLLOUT}.agent", "agent_loop_config_path", "agent_loop_manager_class"),
        "but a run registers its own agent loop",
        "take verl's own command for another loop (docs/own_verl_script.md)",
    ),
    Refused(
        _each(f"{_ROLLOUT}.trace", "backend", "token2text", "max_samples_per_step_per_worker"),
        "but verl's V1 worker traces no episode",
        "read the dumps with trm report",
    ),
    Refused(
        (f"{_ROLLOUT}.checkpoint_engine.custom_backend_module",),
        "but a run brings its own where rollout servers have devices of their own",
        f"leave it out, and choose {_ROLLOUT}.checkpoint_engine.backend",
    ),
    Refused(
        (f"{_ROLLOUT}.val_kwargs.do_sample",),
        "which verl's V1 worker does not read",
        f"set {_ROLLOUT}.val_kwargs.temperature=0 for greedy validation",
        allowed=(True,),
    ),
    Refused(
        ("reward.num_workers",),
        "but an environment scores its own episodes",
        "leave it out",
        allowed=(0,),
    ),
    Refused(
        ("reward.*", "reward_model.*", "custom_reward_function.*", "sandbox_fusion.*"),
        "but an environment scores its own episodes",
        "write the reward into the environment (docs/write_an_env.md)",
    ),
    Refused(
        _each(_V1, "separate_async.hybrid_rollout.*"),
        "but a run lends the trainer's devices to no episode",
        "leave it out, or give the rollout servers more devices (docs/asynchronous.md)",
    ),
    Refused(
        (f"{_V1}.sync",),
        "but a synchronous step takes its batch as a whole, and updates once for each mini-batch of it",
        f"leave it out; {_ACTOR}.ppo_mini_batch_size sets the number of updates",
        allowed=({},),
    ),
    Refused(
        _each("algorithm", "use_pf_ppo", "pf_ppo.*"),
        "but verl's V1 trainers write the advantages of the rows that it draws under the keys of other episodes",
    ),
    Refused(
        (f"{_SAMPLER}.sync_refill_failed_groups",),
        "but a batch keeps its tasks; only one without a single episode is drawn again",
        f"leave it out; see {_SAMPLER}.sampler_kwargs.max_failed_batches",
    ),
    Refused(
        _each(f"{_SAMPLER}.custom_sampler", "path", "name"),
        "but a run has its own replay buffer, which keeps the order of tasks",
        allowed=("pkg://trm_agent.verl_plugin.driver.replay_buffer", "EnvReplayBuffer"),
    ),
    Refused(
        ("algorithm.filter_groups.max_inflight_gen_batches",),
        "but a group without signal is replaced by one task, as soon as it ends",
        "leave it out (docs/dynamic_sampling.md)",
    ),
    Refused(
        ("skip.*",), "but our replay buffer samples episodes of this run only", "leave it out; the same command resumes"
    ),
    Refused(("distillation.*",), "but a run has no teacher"),
    Refused(
        _each(_ACTOR, "clip_ratio", "clip_ratio_low", "clip_ratio_high", "clip_ratio_c", "tau_pos", "tau_neg")
        + _each(f"{_ACTOR}.policy_loss", "clip_cov_ratio", "clip_cov_lb", "clip_cov_ub", "kl_cov_ratio")
        + _each(f"{_ACTOR}.policy_loss", "ppo_kl_coef", "dro_beta"),
        "which the loss trm does not read",
        f"set {_ACTOR}.policy_loss.trm.ratio_truncation or its proximal_clip, or choose another policy_loss",
        loss=LOSS_MODE,
    ),
    Refused(
        _each("algorithm.rollout_correction", "rollout_rs", "rollout_rs_threshold", "rollout_is_threshold", "loss_type")
        + _each("algorithm.rollout_correction", "rollout_is_batch_normalize")
        + _each(_ACTOR, "policy_loss.rollout_correction"),
        "but the loss trm itself decides which sequences stay, and weighs each token",
        f"choose {_ACTOR}.policy_loss.trm.criterion instead, or another policy_loss",
        loss=LOSS_MODE,
    ),
    Refused(
        (f"{_ACTOR}.checkpoint.async_save", "critic.checkpoint.async_save"),
        "but only Megatron's engine saves so, and a run could not resume",
    ),
    Refused(
        ("trainer.esi_redundant_time",),
        "which verl's V1 trainer does not read",
        "send SIGUSR1 before the machine goes (docs/endings.md)",
    ),
    Refused(
        _each("trainer", "balance_batch", "ray_wait_register_center_timeout")
        + _each(_TURNS, "num_repeat_rollouts", "use_inference_chat_template", "tokenization_sanity_check_mode"),
        "which verl's V1 trainer does not read",
    ),
    Refused(("trainer.use_v1",), "but verl's legacy trainer has no place for our replay buffer and metrics"),
    Refused(("trainer.val_only",), "but a run trains", "evaluate a model with trm eval"),
    Refused(
        ("trainer.max_critic_ckpt_to_keep",),
        "but the critic's files stand in the actor's checkpoints",
        "set trainer.max_actor_ckpt_to_keep",
        allowed=(2, None, "${trainer.max_actor_ckpt_to_keep}"),
    ),
    Refused(
        ("trainer.remove_previous_ckpt_in_save",),
        "but a run itself removes checkpoints",
        "set trainer.max_actor_ckpt_to_keep, run.keep_best or run.keep_every",
    ),
    Refused(
        ("trainer.default_local_dir",),
        "but checkpoints stand in the run's folder, where resuming finds them",
        "set run.dir, or run.root",
        allowed=("${run.dir}/checkpoints",),
    ),
)


@functools.cache
def refusal_of(field: str) -> Refused | None:
    """Return the refusal that covers a field; None if there is none."""
    return next((item for item in REFUSED if item.covers(field)), None)
