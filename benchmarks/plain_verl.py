"""The baseline of step_time: verl's task runner, single-turn agent loop, reward worker and vanilla loss on our tasks.

python -m benchmarks.plain_verl RUN_DIR STEPS
"""

import os
import sys
from pathlib import Path

from omegaconf import open_dict

import trm_envs  # noqa: F401  (registers the environments)
from trm_agent.models.nano import NanoSpec, ensure_nano_model
from trm_agent.runs.compose import compose_run
from trm_agent.runs.fit_cpu_engine import fit

OVERRIDES = (
    "experiment=math_nano",
    "policy_loss=ppo_clip",
    # the same phases as ours: the rollout's log-probs are the old ones
    "algorithm.rollout_correction.bypass_mode=true",
    "actor_rollout_ref.rollout.agent.default_agent_loop=single_turn_agent",
    "reward.num_workers=1",
    "trainer.logger=[file]",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
    "data.custom_cls.path=pkg://benchmarks.single_turn",
    "data.custom_cls.name=PromptDataset",
)


def main() -> None:
    run_dir, steps = Path(sys.argv[1]), int(sys.argv[2])
    run_dir.mkdir(parents=True)
    config = compose_run([*OVERRIDES, f"run.dir={run_dir}", f"trainer.total_training_steps={steps}", *sys.argv[3:]])
    os.environ.update({name: str(value) for name, value in config.hardware.env_vars.items()})
    os.environ["VERL_FILE_LOGGER_PATH"] = str(run_dir / "metrics.jsonl")
    with open_dict(config):
        config.actor_rollout_ref.model.path = str(ensure_nano_model(NanoSpec()))
        config.reward.custom_reward_function.path = str(Path(__file__).resolve().with_name("single_turn.py"))
    fit(config)
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo

    run_ppo(config, task_runner_class=TaskRunnerV1)


if __name__ == "__main__":
    main()
