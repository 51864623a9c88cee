"""Tasks as a verl dataset: each row is an environment id, a seed and options; nothing is read from disk."""

import json
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig
from torch.utils.data import Dataset

from trm_agent.tasks import STREAMS, num_greedy, task_at
from trm_fields import refuse


class EnvDataset(Dataset):
    """The tasks of `config.env` (verl's `data.custom_cls`).

    The order of the data is a function of the index alone: a resumed run sees the same tasks as an unbroken one. After
    the tasks of validation come the first of them once more, to be played greedily.

    Args:
        data_files: the stream of `data.env` to read, `train` or `val`.
        config: verl's `data` section with our `env` section under `data.env`.
    """

    def __init__(self, data_files: str, config: DictConfig, max_samples: int = -1, **_: Any) -> None:
        stream = data_files[0] if not isinstance(data_files, str) else data_files
        if stream not in STREAMS:
            refuse(
                f"data.{'train' if 'train' in str(data_files) else 'val'}_files",
                data_files,
                f"{' or '.join(sorted(STREAMS))}, since tasks come from the environment",
                "leave the field as conf/train.yaml has it",
            )
        self.stream = stream
        self.env = config.env
        self.num_tasks = int(config.env[stream].num_tasks)
        length = self.num_tasks + num_greedy(config.env, stream)
        self.length = length if max_samples < 0 else min(max_samples, length)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        greedy = index >= self.num_tasks
        task = task_at(self.env, self.stream, index % self.num_tasks)
        return {
            # verl counts rows by `raw_prompt`; the real prompt comes from the environment at reset
            "raw_prompt": [{"role": "user", "content": f"{task.env_id} seed {task.seed}"}],
            "env_task": json.dumps({"stream": self.stream, "greedy": greedy, **asdict(task)}),
            "index": index,
            "data_source": f"{'greedy_' if greedy else ''}h{task.options['horizon']}",
            "reward_model": {"style": "environment", "ground_truth": ""},
        }
