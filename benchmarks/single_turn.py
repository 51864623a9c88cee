"""The workload of step_time for verl alone: the first turn of our tasks as prompts, and their reward."""

import json
from typing import Any

import gymnasium
from omegaconf import DictConfig

from benchmarks.single_turn_env import reward_of
from trm_agent.models.tokenizer import TURN_END, TURN_START
from trm_agent.verl_plugin.driver.dataset import EnvDataset


class PromptDataset(EnvDataset):
    """Our tasks with their first messages as verl's prompts, token for token: verl's loop takes no tools of its own."""

    def __init__(self, data_files: str, config: DictConfig, *, tokenizer: Any, max_samples: int = -1, **_: Any) -> None:
        super().__init__(data_files, config, max_samples)
        self.tokenizer = tokenizer

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = super().__getitem__(index)
        task = json.loads(row["env_task"])
        env = gymnasium.make(task["env_id"]).unwrapped
        observation, _ = env.reset(seed=task["seed"], options=task["options"])
        messages = [{"role": "system", "content": env.system_prompt}, {"role": "user", "content": observation}]
        rendered = self.tokenizer.apply_chat_template(messages, tools=env.tool_schemas, tokenize=False)
        system = rendered.removeprefix(f"{TURN_START}system\n").partition(TURN_END)[0]
        row["raw_prompt"] = [{"role": "system", "content": system}, messages[1]]
        return row


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any) -> float:
    """The reward of the environment that our side plays."""
    return reward_of(solution_str)
