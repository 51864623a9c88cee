"""Tasks as a verl dataset: a row is an environment id, a seed and options; nothing is read from disk."""

import json
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch.utils.data import Dataset

TRAIN, VALIDATION = "train", "val"
_STREAMS = {TRAIN: 0, VALIDATION: 1}


def task_seed(base_seed: int, stream: str, index: int) -> int:
    """The seed of task `index`: a 32-bit hash of the run's seed, the stream and the index."""
    return int(np.random.SeedSequence([base_seed, _STREAMS[stream], index]).generate_state(1)[0])


class EnvDataset(Dataset):
    """The tasks of `config.env` (verl's `data.custom_cls`).

    Row `i` takes horizon `i mod len(horizons)`, so every batch of a multiple of that length has the same mixture, and
    the order of the data is a function of the index alone: a resumed run sees what an unbroken one would.

    Args:
        data_files: `train` or `val`: which stream of `data.env` to read.
        config: verl's `data` section with our `env` section under `data.env`.
    """

    def __init__(self, data_files: str, config: DictConfig, max_samples: int = -1, **_: Any) -> None:
        stream = data_files[0] if not isinstance(data_files, str) else data_files
        if stream not in _STREAMS:
            raise ValueError(
                f"data.{'train' if 'train' in str(data_files) else 'val'}_files: {data_files!r}: "
                f"environment tasks come from {sorted(_STREAMS)}; leave the field as conf/train.yaml has it"
            )
        self.stream = stream
        self.env = config.env
        self.settings = config.env[stream]
        self.horizons = [int(horizon) for horizon in self.settings.horizons]
        self.length = int(self.settings.num_tasks) if max_samples < 0 else min(max_samples, self.settings.num_tasks)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        horizon = self.horizons[index % len(self.horizons)]
        task = {
            "stream": self.stream,
            "env_id": self.env.id,
            "seed": task_seed(int(self.settings.seed), self.stream, index),
            "options": {"horizon": horizon, "split": self.settings.split},
        }
        return {
            # verl counts rows by `raw_prompt`; the real prompt is what the environment says at reset
            "raw_prompt": [{"role": "user", "content": f"{task['env_id']} seed {task['seed']}"}],
            "env_task": json.dumps(task),
            "index": index,
            "data_source": f"h{horizon}",
            "reward_model": {"style": "environment", "ground_truth": ""},
        }
