"""Rules of `trm_agent.runs.preflight` on batches, lengths, sampling, the trust region and schedule."""

import math

from omegaconf import DictConfig

from trm_agent.runs.estimators import GROUP_ESTIMATORS
from trm_agent.runs.groups import BESIDE_SERVER, WORKERS
from trm_agent.runs.preflight_async import advantages, asynchronous, queue
from trm_agent.runs.preflight_tasks import enough_tasks
from trm_agent.runs.repeating import deterministic
from trm_agent.runs.ulysses import sharing_ranks
from trm_agent.runs.validation_names import validation_names
from trm_agent.trust_region.recording import REPLAYED
from trm_agent.trust_region.settings import FIELD_PATH
from trm_agent.trust_region.surroundings import LOSS_MODE, processed_log_probs, trust_region
from trm_fields import COUNT, OneOf, refuse

_ACTOR = "actor_rollout_ref.actor"
_ROLLOUT = "actor_rollout_ref.rollout"


def batches(config: DictConfig) -> None:
    """Refuse batch sizes that do not divide."""
    batch, group = config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    mini = config.actor_rollout_ref.actor.ppo_mini_batch_size
    devices = config.trainer.n_gpus_per_node * config.trainer.nnodes
    for field, value in (
        ("data.train_batch_size", batch),
        (f"{_ROLLOUT}.n", group),
        (f"{_ACTOR}.ppo_mini_batch_size", mini),
        ("trainer.n_gpus_per_node * trainer.nnodes", devices),
    ):
        COUNT.check(field, value)
    if batch % mini:
        refuse(
            f"{_ACTOR}.ppo_mini_batch_size",
            mini,
            f"a divisor of data.train_batch_size={batch}; both count prompts",
            "choose one",
            because="which does not divide",
        )
    sharing = sharing_ranks(config)
    # a size that does not divide the devices has a rule of its own
    parts = devices if devices % sharing else devices // sharing
    told = f"{devices} devices" + (f", of which {sharing} share a sequence" if parts < devices else "")
    if (mini * group) % parts:
        refuse(
            f"{_ACTOR}.ppo_mini_batch_size",
            mini,
            f"with {_ROLLOUT}.n={group} a multiple of {parts} sequences",
            "change one of the two",
            because=f"whose {mini * group} sequences cannot be divided over {told}",
        )
    actor, per_device = config.actor_rollout_ref.actor, mini * group // parts
    micro = actor.ppo_micro_batch_size_per_gpu
    if not actor.use_dynamic_bsz and micro is not None and per_device % micro:
        refuse(
            f"{_ACTOR}.ppo_micro_batch_size_per_gpu",
            micro,
            f"a divisor of the {per_device} sequences that a device gets of a mini-batch ({mini} prompts times {group} "
            f"episodes over {told})",
            f"choose one, or {_ACTOR}.use_dynamic_bsz=true",
        )
    estimator = str(config.algorithm.adv_estimator)
    if estimator in GROUP_ESTIMATORS and group < 2:
        refuse(
            f"{_ROLLOUT}.n",
            group,
            f"at least 2 episodes per task for the baseline of algorithm.adv_estimator={estimator}",
            "raise it",
            because="with which every advantage would be 0",
        )


def lengths(config: DictConfig) -> None:
    """Refuse a context that does not hold prompt and response."""
    prompt, response = config.data.max_prompt_length, config.data.max_response_length
    model = config.actor_rollout_ref.rollout.max_model_len
    if model is not None and prompt + response > model:
        refuse(
            f"{_ROLLOUT}.max_model_len",
            model,
            f"at least {prompt + response}, which is data.max_prompt_length={prompt} plus "
            f"data.max_response_length={response}",
            "raise it",
        )


def sampling(config: DictConfig) -> None:
    """Refuse sampling whose log-probs would belong to another distribution."""
    rollout, loss = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor.policy_loss
    is_replayed = loss.loss_mode == LOSS_MODE and loss.trm.estimator == REPLAYED
    if rollout.top_p < 1 and not is_replayed:
        refuse(
            f"{_ROLLOUT}.top_p",
            rollout.top_p,
            "1.0",
            f"set it, or replay what it keeps of {_ROLLOUT}.top_k tokens: {FIELD_PATH}.estimator={REPLAYED}",
            because="below which the engine reports log-probs of a cut and renormalised distribution, and the ratio to "
            "the trainer's is wrong",
        )
    if rollout.top_k not in (-1, 0) and not is_replayed:
        refuse(
            f"{_ROLLOUT}.top_k",
            rollout.top_k,
            "-1 or 0",
            f"set it to -1, or replay what it keeps: {FIELD_PATH}.estimator={REPLAYED}",
            because="which cuts the sampled distribution as top_p does",
        )
    if rollout.calculate_log_probs:
        processed_log_probs(config)
    if rollout.temperature <= 0:
        refuse(f"{_ROLLOUT}.temperature", rollout.temperature, "above 0, since training samples", "set it to 1.0")


def checkpoints(config: DictConfig) -> None:
    """Refuse a best checkpoint that no validation could tell."""
    best, trainer = config.run.keep_best, config.trainer
    newest = trainer.max_actor_ckpt_to_keep
    if newest is not None:
        COUNT.check("trainer.max_actor_ckpt_to_keep", newest, "give the number of newest checkpoints, or null for all")
    if best is None:
        return
    val, samples = config.env.val, config.actor_rollout_ref.rollout.val_kwargs.n
    OneOf(validation_names(val.horizons, samples, val.greedy_tasks)).check("run.keep_best", best)
    together = math.lcm(trainer.save_freq, trainer.test_freq) if min(trainer.save_freq, trainer.test_freq) > 0 else 0
    if not 0 < together <= trainer.total_training_steps:
        refuse(
            "run.keep_best",
            best,
            "null, where no step before the last has both a checkpoint and a validation",
            f"set trainer.test_freq={trainer.test_freq} and trainer.save_freq={trainer.save_freq} to steps in common",
        )


def greedy_validation(config: DictConfig) -> None:
    """Refuse to cut validation where its last rows are the greedy ones."""
    tasks, most = config.env.val.greedy_tasks, config.data.val_max_samples
    if tasks and most != -1:
        refuse(
            "data.val_max_samples",
            most,
            f"-1 with env.val.greedy_tasks={tasks}, whose rows it would cut first",
            "set env.val.num_tasks, or env.val.greedy_tasks=0",
        )


def agent_loops(config: DictConfig) -> None:
    """Refuse agent loops in the servers' processes where those cannot play."""
    rollout, field = config.actor_rollout_ref.rollout, "hardware.agent_loops"
    if config.hardware.agent_loops != BESIDE_SERVER:
        return
    if rollout.name != "vllm":
        because = f"but the servers of {_ROLLOUT}.name={rollout.name} play no episodes"
        refuse(field, BESIDE_SERVER, WORKERS, "set it", because=because)
    if rollout.disaggregation.enabled:
        because = f"but with {_ROLLOUT}.disaggregation.enabled=true several servers share a turn"
        refuse(field, BESIDE_SERVER, WORKERS, "set it", because=because)


TRAINING_RULES = (
    batches,
    lengths,
    sampling,
    asynchronous,
    queue,
    advantages,
    agent_loops,
    deterministic,
    trust_region,
    enough_tasks,
    checkpoints,
    greedy_validation,
)
