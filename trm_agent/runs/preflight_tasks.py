"""The rule of `trm_agent.runs.preflight` on the number of training tasks, whatever draws them."""

from omegaconf import DictConfig

from trm_agent.runs.preflight_async import ahead_of_step, warmup_of
from trm_fields import refuse

_LIMIT = "algorithm.filter_groups.max_num_gen_batches"


def enough_tasks(config: DictConfig) -> None:
    """Refuse fewer tasks than a run may draw: verl would begin anew with the first.

    A step draws its batch, with dynamic sampling up to `max_num_gen_batches` of them. An asynchronous run draws no task
    for steps that do not come; it is to have as many more as are ahead of a step, in place of those that fail or grow
    too old.
    """
    steps, batch = config.trainer.total_training_steps, int(config.data.train_batch_size)
    asked, ahead = config.algorithm.filter_groups, ahead_of_step(config)
    batches = max(1, asked.max_num_gen_batches) if asked.enable else 1
    taken = steps * batch * batches
    # a filter without a limit may need any number, and at least this one
    needed = max(taken, ahead) if asked.enable and not asked.max_num_gen_batches else taken + ahead
    if needed <= config.env.train.num_tasks:
        return
    drawn = f"which is {steps} steps of {batch} tasks" + (f" times {_LIMIT}={batches}" if batches > 1 else "")
    spare = f" and, for those that fail, as many more as are ahead of one ({warmup_of(config)})"
    further = spare if needed > taken else ""
    if needed == ahead:
        drawn, further = f"which are those ahead of the first step ({warmup_of(config)})", ""
    refuse(
        "env.train.num_tasks",
        config.env.train.num_tasks,
        f"at least {needed}, {drawn}{further}",
        "raise it, or lower trainer.total_training_steps",
    )
