"""The workload of step_time for verl alone: our tasks as prompts of one turn, and a reward as cheap as can be."""

import json
from typing import Any

import gymnasium

import trm_envs  # noqa: F401  (registers the environments)
from trm_agent.verl_plugin.dataset import EnvDataset


class PromptDataset(EnvDataset):
    """Our tasks with their first messages as verl's prompts."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = super().__getitem__(index)
        task = json.loads(row["env_task"])
        env = gymnasium.make(task["env_id"]).unwrapped
        observation, _ = env.reset(seed=task["seed"], options=task["options"])
        row["raw_prompt"] = [
            {"role": "system", "content": env.system_prompt},
            {"role": "user", "content": observation},
        ]
        return row


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any) -> float:
    """Whether the turn is a tool call."""
    return float("</tool_call>" in solution_str)
