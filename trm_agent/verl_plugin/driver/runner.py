"""The Ray actor that drives a run: verl's V1 task runner with our trainer class and a record of the start-up."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray

from trm_agent.runs.endings.closing import record_cause
from trm_agent.runs.groups import BESIDE_SERVER
from trm_agent.runs.phases import mark
from trm_agent.runs.repeating import repeats


def let_turns_repeat(config: Any) -> None:
    """Write whether turns have seeds, and let prompts be read whole if they do.

    Between two pieces of a prompt vLLM rewinds a seeded generator, which is impossible on a CPU.
    """
    config.run.deterministic = repeats(config)
    if config.run.deterministic:
        config.actor_rollout_ref.rollout.enable_chunked_prefill = False


@ray.remote
class RunTaskRunner:
    """A task runner with the interface of verl's `TaskRunnerV1`, for `run_ppo(config, task_runner_class=...)`."""

    def run(self, config: Any) -> None:
        """Train until the last step.

        Args:
            config: the composed and checked configuration.
        """
        train(config)


def train(config: Any) -> None:
    """Train until the last step, in the process of a task runner.

    Args:
        config: the composed and checked configuration.
    """
    import transfer_queue as tq
    from omegaconf import OmegaConf
    from verl.utils.logging_utils import configure_verl_logging

    from trm_agent.verl_plugin.driver.trainer import trainer_class
    from trm_agent.verl_plugin.rollout.beside_server import without_balancer

    configure_verl_logging()
    run_dir = config.run.dir
    mark(run_dir, "driver of the trainer")
    config.transfer_queue.enable = True
    OmegaConf.resolve(config)
    let_turns_repeat(config)
    trainer = agent_loops = None
    succeeded = False
    try:
        with ThreadPoolExecutor(1) as beside:
            # two actors, which the workers look for at the first step only
            queue = beside.submit(_start_queue, config)
            trainer = trainer_class(config.trainer.v1.trainer_mode)(config=config)
            trainer.await_queue = queue.result
            if config.hardware.agent_loops == BESIDE_SERVER and config.trainer.v1.trainer_mode == "sync":
                without_balancer()
            trainer.init()
        mark(run_dir, "actor and rollout engine")
        agent_loops = _agent_loops(config, trainer)
        mark(run_dir, "agent loops")
        trainer.fit(agent_loops)
        succeeded = True
    finally:
        if (close := getattr(agent_loops, "close", None)) is not None:
            close()
        tracking = getattr(trainer, "_tracking", None)
        if tracking is not None:
            tracking.finish(exit_code=0 if succeeded else 1)
        tq.close()


def _start_queue(config: Any) -> None:
    import transfer_queue as tq

    tq.init(config.transfer_queue)
    mark(config.run.dir, "data queue")


def _agent_loops(config: Any, trainer: Any) -> Any:
    """Build the manager of the agent loops, in the processes that `hardware.agent_loops` names."""
    from trm_agent.verl_plugin.driver.asynchronous import rollout_servers
    from trm_agent.verl_plugin.rollout.beside_server import BesideServers
    from trm_agent.verl_plugin.rollout.episodes_worker import WorkersOfEpisodes
    from trm_agent.verl_plugin.rollout.loss_watch import LossWatch

    given = {
        "config": config,
        "llm_client": trainer.get_llm_client(),
        "teacher_client": trainer.get_teacher_client(),
        "reward_loop_worker_handles": trainer.get_reward_handles(),
        "watch": LossWatch(functools.partial(_give_up, Path(config.run.dir)), config.run.weight_sync_timeout_s),
    }
    if config.hardware.agent_loops != BESIDE_SERVER:
        return WorkersOfEpisodes.create(**given)
    servers = rollout_servers(trainer)
    return BesideServers.create(
        **given,
        servers=dict(zip(servers.server_addresses, servers.server_handles, strict=True)),
    )


def _give_up(run_dir: Path, cause: str) -> None:
    print(cause, flush=True)
    record_cause(run_dir, cause)
    os._exit(1)
