"""Agent-loop workers are as many as a step's episodes need."""

import pytest

from trm_agent.runs.compose import compose_run
from trm_agent.runs.planning.loops import WORKERS

ONE = ["experiment=math_nano", "hardware=gpu", "trainer.n_gpus_per_node=1"]


@pytest.mark.parametrize(
    ("overrides", "number"),
    [
        # 32 tasks of 16 episodes, 256 a worker
        (["experiment=math_qwen3_8b"], 2),
        # 16 of 8
        (["experiment=math_1x16gb"], 1),
        (["experiment=math_1x16gb", "data.train_batch_size=1024"], 8),
        # a node without a worker would leave its processors idle
        (["experiment=math_qwen3_8b", "trainer.nnodes=4"], 4),
        (["experiment=math_1x16gb", f"{WORKERS}=3"], 3),
        (ONE, 1),
    ],
)
def test_workers_follow_the_episodes_of_a_step(overrides: list[str], number: int) -> None:
    assert compose_run(overrides).actor_rollout_ref.rollout.agent.num_workers == number
