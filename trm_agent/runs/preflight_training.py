"""Rules of `trm_agent.runs.preflight` on batches, lengths, sampling, the trust region and schedule."""

from omegaconf import DictConfig

from trm_agent.runs.estimators import GROUP_ESTIMATORS
from trm_agent.trust_region.surroundings import trust_region

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
        if value < 1:
            raise ValueError(f"{field}={value}: must be at least 1")
    if batch % mini:
        raise ValueError(
            f"{_ACTOR}.ppo_mini_batch_size={mini}: does not divide data.train_batch_size={batch}; "
            f"both count prompts: choose a divisor of {batch}"
        )
    if (mini * group) % devices:
        raise ValueError(
            f"{_ACTOR}.ppo_mini_batch_size={mini} times {_ROLLOUT}.n={group} sequences cannot be divided over "
            f"{devices} devices; change one so that the product is a multiple of {devices}"
        )
    actor, per_device = config.actor_rollout_ref.actor, mini * group // devices
    micro = actor.ppo_micro_batch_size_per_gpu
    if not actor.use_dynamic_bsz and micro is not None and per_device % micro:
        raise ValueError(
            f"{_ACTOR}.ppo_micro_batch_size_per_gpu={micro}: does not divide the {per_device} sequences that a device "
            f"gets of a mini-batch ({mini} prompts times {group} episodes over {devices} devices); "
            f"choose a divisor of {per_device}, or {_ACTOR}.use_dynamic_bsz=true"
        )
    estimator = str(config.algorithm.adv_estimator)
    if estimator in GROUP_ESTIMATORS and group < 2:
        raise ValueError(
            f"{_ROLLOUT}.n={group}: the baseline of algorithm.adv_estimator={estimator} needs at least 2 episodes a "
            "task, and every advantage would be 0; raise it"
        )


def lengths(config: DictConfig) -> None:
    """Refuse a context that does not hold prompt and response."""
    prompt, response = config.data.max_prompt_length, config.data.max_response_length
    model = config.actor_rollout_ref.rollout.max_model_len
    if model is not None and prompt + response > model:
        raise ValueError(
            f"{_ROLLOUT}.max_model_len={model}: less than data.max_prompt_length={prompt} plus "
            f"data.max_response_length={response}; raise it to at least {prompt + response}"
        )


def sampling(config: DictConfig) -> None:
    """Refuse sampling whose log-probs would belong to another distribution."""
    rollout = config.actor_rollout_ref.rollout
    if rollout.top_p < 1:
        raise ValueError(
            f"{_ROLLOUT}.top_p={rollout.top_p}: below 1 the engine reports log-probs of a cut and renormalised "
            "distribution, and the ratio to the trainer's is wrong; set it to 1.0"
        )
    if rollout.top_k not in (-1, 0):
        raise ValueError(f"{_ROLLOUT}.top_k={rollout.top_k}: cuts the sampled distribution like top_p; set it to -1")
    if rollout.temperature <= 0:
        raise ValueError(f"{_ROLLOUT}.temperature={rollout.temperature}: training samples; give a positive temperature")


def schedule(config: DictConfig) -> None:
    """Refuse more steps than there are tasks."""
    steps = config.trainer.total_training_steps
    if steps is None or steps < 1:
        raise ValueError(f"trainer.total_training_steps={steps}: give the number of steps, at least 1")
    if steps * config.data.train_batch_size > config.env.train.num_tasks:
        raise ValueError(
            f"env.train.num_tasks={config.env.train.num_tasks}: {steps} steps of {config.data.train_batch_size} tasks "
            f"need {steps * config.data.train_batch_size}; raise it or lower trainer.total_training_steps"
        )


TRAINING_RULES = (batches, lengths, sampling, trust_region, schedule)
