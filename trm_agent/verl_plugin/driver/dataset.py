"""Tasks as a verl dataset: each row is an environment id, a seed and options; nothing is read from disk."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from omegaconf import DictConfig
from torch.utils.data import Dataset

from trm_agent.tasks import STREAMS, TRAIN, Task, num_greedy, task_at
from trm_agent.verl_plugin.driver.curriculum import Curriculum
from trm_fields import refuse


class EnvDataset(Dataset):
    """The tasks of `config.env` (verl's `data.custom_cls`).

    The order of the data is a function of the index alone: a resumed run sees the same tasks as an unbroken one. After
    the tasks of validation come the first of them once more, to be played greedily. With `env.train.curriculum` the
    horizon of a training task depends on what was measured before it is drawn; verl's loader keeps that in checkpoints.

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
        self.curriculum = _curriculum(config.env) if stream == TRAIN else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._row(index, self._task(index % self.num_tasks))

    def at_horizon(self, index: int, horizon: int) -> dict[str, Any]:
        """Return the row of a task that a curriculum drew with this horizon, whatever it would draw now."""
        return self._row(index, _with_horizon(task_at(self.env, self.stream, index), horizon))

    def _row(self, index: int, task: Task) -> dict[str, Any]:
        greedy = index >= self.num_tasks
        return {
            # verl counts rows by `raw_prompt`; the real prompt comes from the environment at reset
            "raw_prompt": [{"role": "user", "content": f"{task.env_id} seed {task.seed}"}],
            "env_task": json.dumps({"stream": self.stream, "greedy": greedy, **asdict(task)}),
            "index": index,
            "data_source": f"{'greedy_' if greedy else ''}h{task.options['horizon']}",
            "reward_model": {"style": "environment", "ground_truth": ""},
        }

    def state_dict(self) -> dict[str, float]:
        """Return what a checkpoint keeps beside the place in the data."""
        return self.curriculum.state_dict() if self.curriculum else {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a checkpoint."""
        if self.curriculum:
            self.curriculum.load_state_dict(state)

    def _task(self, index: int) -> Task:
        task = task_at(self.env, self.stream, index)
        if self.curriculum is None:
            return task
        return _with_horizon(task, self.curriculum.horizon_of(index))


def _with_horizon(task: Task, horizon: int) -> Task:
    return replace(task, options={**task.options, "horizon": horizon})


def _curriculum(env: DictConfig) -> Curriculum | None:
    settings = env.train.get("curriculum")
    if settings is None or not settings.enable:
        return None
    return Curriculum(env.train.horizons, int(env.train.seed), settings)
