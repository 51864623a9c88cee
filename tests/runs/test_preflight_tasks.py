"""How many training tasks a run may draw, by each way of drawing them."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.runs.test_preflight_sampling import nano
from trm_agent.runs.preflight_tasks import enough_tasks

FILTER, MODE, STEPS = "algorithm.filter_groups", "trainer.v1.trainer_mode", "trainer.total_training_steps"
FILTERED = {f"{FILTER}.enable": True, f"{FILTER}.max_num_gen_batches": 5}
SPARE = " and, for those that fail, as many more as are ahead of one"
COLOCATED = {MODE: "colocate_async", "trainer.v1.colocate_async.num_warmup_batches": 1.5}


# 40 steps of 16 tasks, with dynamic sampling five times as many; one and a half batches ahead are 24 tasks
@pytest.mark.parametrize(
    ("changes", "needed", "words"),
    [
        ({}, 640, "which is 40 steps of 16 tasks; raise it, or lower trainer.total_training_steps"),
        ({f"{FILTER}.max_num_gen_batches": 5}, 640, "which is 40 steps of 16 tasks;"),
        ({f"{FILTER}.enable": True}, 640, "which is 40 steps of 16 tasks;"),
        (FILTERED, 3200, f"40 steps of 16 tasks times {FILTER}.max_num_gen_batches=5; raise"),
        (COLOCATED, 664, f"{SPARE} (trainer.v1.colocate_async.num_warmup_batches); raise"),
        ({MODE: "separate_async"}, 656, f"{SPARE} (trainer.v1.separate_async.num_warmup_batches)"),
        (COLOCATED | {f"{FILTER}.enable": True}, 640, "which is 40 steps of 16 tasks; raise it"),
        # of one step
        (
            COLOCATED | {f"{FILTER}.enable": True, STEPS: 1},
            24,
            "which are those ahead of the first step (trainer.v1.colo",
        ),
        (FILTERED | COLOCATED, 3224, f"times {FILTER}.max_num_gen_batches=5{SPARE}"),
    ],
)
def test_fewer_tasks_than_a_run_may_draw_are_refused(changes: dict[str, Any], needed: int, words: str) -> None:
    config = nano().copy()
    for field, value in changes.items():
        OmegaConf.update(config, field, value)
    config.env.train.num_tasks = needed
    enough_tasks(config)
    config.env.train.num_tasks = needed - 1
    with pytest.raises(ValueError, match=f"^env.train.num_tasks: got {needed - 1}; allowed: at least {needed}") as told:
        enough_tasks(config)
    assert words in str(told.value)
