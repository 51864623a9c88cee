"""The Ray actor that drives a run: verl's V1 task runner with our trainer class and a record of the start-up."""

import json
import time
from pathlib import Path
from typing import Any

import ray

from trm_agent.runs.folder import STARTUP_FILE


def mark(run_dir: str | Path, phase: str) -> None:
    """Append a phase of the start-up and its time (seconds since the epoch) to the run folder."""
    with (Path(run_dir) / STARTUP_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"phase": phase, "time": time.time()}) + "\n")


@ray.remote
class RunTaskRunner:
    """A task runner with the interface of verl's `TaskRunnerV1`, for `run_ppo(config, task_runner_class=...)`."""

    def run(self, config: Any) -> None:
        """Train until the last step.

        Args:
            config: the composed and checked configuration.
        """
        import transfer_queue as tq
        from omegaconf import OmegaConf
        from verl.trainer.ppo.v1 import AgentLoopManagerTQ
        from verl.utils.logging_utils import configure_verl_logging

        from trm_agent.verl_plugin.driver.trainer import trainer_class

        configure_verl_logging()
        run_dir = config.run.dir
        mark(run_dir, "driver of the trainer")
        config.transfer_queue.enable = True
        OmegaConf.resolve(config)
        tq.init(config.transfer_queue)
        mark(run_dir, "data queue")
        trainer = None
        succeeded = False
        try:
            trainer = trainer_class(config.trainer.v1.trainer_mode)(config=config)
            trainer.init()
            mark(run_dir, "actor and rollout engine")
            agent_loops = AgentLoopManagerTQ.create(
                config=config,
                llm_client=trainer.get_llm_client(),
                teacher_client=trainer.get_teacher_client(),
                reward_loop_worker_handles=trainer.get_reward_handles(),
            )
            mark(run_dir, "agent loops")
            trainer.fit(agent_loops)
            succeeded = True
        finally:
            tracking = getattr(trainer, "_tracking", None)
            if tracking is not None:
                tracking.finish(exit_code=0 if succeeded else 1)
            tq.close()
