"""Trust Region Masking in verl's own trainer: a parquet file, verl's single-turn loop, a reward function, our loss.

    python examples/loss_only.py                                    # two steps, with a tiny model
    python examples/loss_only.py MODEL_FOLDER TRAIN.parquet [overrides of verl]

`TRM` is all that your own script of `python -m verl.trainer.main_ppo` needs. The rest is any verl script.
"""

import os
import re
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet

TRM = (
    # the loss and its settings: trm, or another file of trm_agent/conf/policy_loss such as trm_adaptive
    "hydra.searchpath=[pkg://trm_agent.conf]",
    "+policy_loss=trm",
    # the loss, the engine that measures, and the names of the metrics, in every process
    "actor_rollout_ref.model.external_lib=trm_agent.verl_plugin.extension",
    # the policy that sampled
    "actor_rollout_ref.rollout.calculate_log_probs=true",
)
VERL = (
    "algorithm.adv_estimator=grpo",
    "data.train_batch_size=4",
    "data.max_prompt_length=128",
    "data.max_response_length=32",
    "data.dataloader_num_workers=0",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.rollout.name=vllm",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.rollout.max_model_len=160",
    f"reward.custom_reward_function.path={Path(__file__).resolve()}",
    "reward.num_workers=1",
    "trainer.nnodes=1",
    "trainer.n_gpus_per_node=1",
    "trainer.total_training_steps=2",
    "trainer.val_before_train=false",
    "trainer.logger=[console,file]",
)
# a machine without a GPU: docs/verl_on_cpu.md
CPU = ("+hardware=cpu",)


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: object = None, **_: object
) -> float:
    """Pay 1 for the right number, and little for digits: a model that knows nothing has something to learn."""
    numbers = re.findall(r"\d+", solution_str)
    if numbers and numbers[-1] == ground_truth:
        return 1.0
    return 0.1 * sum(map(str.isdigit, solution_str)) / max(1, len(solution_str))


def write_questions(path: Path, num: int = 32) -> None:
    """Write sums as the rows that verl's dataset reads."""
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": f"{first} + {first + 3} = ?"}],
            "reward_model": {"style": "rule", "ground_truth": str(2 * first + 3)},
            "extra_info": {"index": first},
        }
        for first in range(num)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def overrides(arguments: list[str], folder: Path) -> list[str]:
    """Return verl's command line, with a model and a file that are made where none is given."""
    from trm_agent.runs.compose import NVIDIA_DEVICE

    paths = [argument for argument in arguments if "=" not in argument]
    if len(paths) != 2:
        from trm_agent.models.nano import NanoSpec, ensure_nano_model

        paths = [str(ensure_nano_model(NanoSpec())), str(folder / "sums.parquet")]
        write_questions(Path(paths[1]))
    model, questions = paths
    return [
        *TRM,
        *VERL,
        *(() if NVIDIA_DEVICE.exists() else CPU),
        f"actor_rollout_ref.model.path={model}",
        f"data.train_files={questions}",
        f"data.val_files={questions}",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        f"hydra.run.dir={folder / 'hydra'}",
        *(argument for argument in arguments if "=" in argument),
    ]


def main() -> None:
    """Run verl's own command in this process."""
    folder = Path("runs/loss_only").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("VERL_FILE_LOGGER_PATH", str(folder / "metrics.jsonl"))
    sys.argv[1:] = overrides(sys.argv[1:], folder)
    print("python -m verl.trainer.main_ppo", *sys.argv[1:], sep=" \\\n    ", flush=True)
    if "+hardware=cpu" in sys.argv:
        set_cpu_variables()
    from verl.trainer.main_ppo import main as verl_main

    verl_main()


def set_cpu_variables() -> None:
    """Set the environment variables of hardware=cpu, which must stand before verl is imported."""
    import yaml

    from trm_agent.runs.compose import CONF

    settings = yaml.safe_load((CONF / "hardware" / "cpu.yaml").read_text())
    os.environ.update(settings["hardware"]["env_vars"])


if __name__ == "__main__":
    main()
