"""Training horizons that follow measured success, and the checkpoint that goes on with them."""

import json
import math
from collections import Counter
from typing import Any

import pytest
from omegaconf import OmegaConf

pytest.importorskip("verl")

import torch
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.utils.dataset.rl_dataset import collate_fn

from trm_agent.runs.checkpoint_pickles import check_pickle
from trm_agent.runs.sampling_settings import CurriculumConfig
from trm_agent.verl_plugin.driver.curriculum import Curriculum, curriculum_metrics
from trm_agent.verl_plugin.driver.dataset import EnvDataset
from trm_agent.verl_plugin.driver.group_signal import Group


def curriculum(success: dict[int, float] | None = None, **settings: Any) -> Curriculum:
    made = Curriculum([2, 4, 6], seed=0, settings=CurriculumConfig(enable=True, **settings))
    made.success = dict(success or {})
    return made


def group(horizon: int | None, *successes: int, masked: int = 0) -> Group:
    return Group(horizon, [float(each) for each in successes], [bool(each) for each in successes], num_masked=masked)


def test_nothing_measured_draws_every_horizon_alike():
    assert curriculum().probabilities() == pytest.approx({2: 1 / 3, 4: 1 / 3, 6: 1 / 3})


def test_a_horizon_that_sometimes_succeeds_is_drawn_most_and_each_keeps_its_floor():
    # weights 0, 1, 0: the floor of 0.1 for each, and the remaining 0.7 for the middle one
    assert curriculum({2: 1.0, 4: 0.5, 6: 0.0}).probabilities() == pytest.approx({2: 0.1, 4: 0.8, 6: 0.1})
    # weights (1 - 0.9) / 0.2 = 0.5, 1, 0.1 / 0.2 = 0.5
    found = curriculum({2: 0.9, 4: 0.8, 6: 0.1}).probabilities()
    assert found == pytest.approx({2: 0.1 + 0.7 / 4, 4: 0.1 + 0.7 / 2, 6: 0.1 + 0.7 / 4})


def test_all_horizons_of_no_use_are_drawn_alike():
    assert curriculum({2: 1.0, 4: 0.0, 6: 0.0}).probabilities() == pytest.approx({2: 1 / 3, 4: 1 / 3, 6: 1 / 3})


def test_bounds_at_the_ends_divide_by_nothing():
    assert sum(curriculum({2: 1.0, 4: 0.0}, low=0.0, high=1.0).probabilities().values()) == pytest.approx(1)


def test_the_draw_has_the_probabilities():
    made = curriculum({2: 1.0, 4: 0.5, 6: 0.0})
    counts = Counter(made.horizon_of(index) for index in range(2000))
    # three standard deviations of 2000 draws at 0.1 are 0.02
    assert {horizon: count / 2000 for horizon, count in counts.items()} == pytest.approx(
        {2: 0.1, 4: 0.8, 6: 0.1}, abs=0.02
    )
    assert [made.horizon_of(index) for index in range(50)] == [made.horizon_of(index) for index in range(50)]
    other = Curriculum([2, 4, 6], seed=1, settings=made.settings)
    other.success = made.success
    assert [other.horizon_of(index) for index in range(50)] != [made.horizon_of(index) for index in range(50)]


def test_the_mean_is_of_groups_with_signal_or_without_and_masked_episodes_failed():
    made = curriculum(memory_groups=2)
    made.observe([group(2, 1, 1), group(2, 0, 1), group(4, 1, masked=3), group(6, masked=2), group(None)])
    assert made.success == {2: 0.75, 4: 0.25, 6: 0.0}
    made.observe([group(2, 0, 0)])
    # one group against a memory of two
    assert made.success[2] == pytest.approx(0.75 * math.exp(-0.5))


def test_the_order_of_a_steps_groups_changes_nothing():
    groups = [group(2, *(int(digit) for digit in f"{number:03b}")) for number in range(8)]
    one, other = curriculum({2: 0.3}), curriculum({2: 0.3})
    one.observe(groups)
    other.observe(groups[::-1])
    assert one.success == other.success


def test_a_step_tells_what_was_drawn_and_with_what_probability():
    metrics = curriculum_metrics({2: 0.25, 4: 0.75}, {4: 0.5}, [group(2, 1), group(4, 1, 0), group(4, 0), group(None)])
    assert metrics == {
        "env/curriculum/probability/h2": 0.25,
        "env/curriculum/probability/h4": 0.75,
        "env/curriculum/success/h4": 0.5,
        "env/curriculum/share/h2": pytest.approx(1 / 3),
        "env/curriculum/share/h4": pytest.approx(2 / 3),
    }


def dataset(enable: bool = True) -> EnvDataset:
    train = {"horizons": [2, 4, 6], "split": "train", "num_tasks": 500, "seed": 0}
    settings = OmegaConf.structured(CurriculumConfig(enable=enable))
    env = OmegaConf.create({"id": "trm/ChainMath-v0", "train": {**train, "curriculum": settings}})
    return EnvDataset("train", config=OmegaConf.create({"env": env}))


def loader(data: EnvDataset) -> StatefulDataLoader:
    return StatefulDataLoader(data, batch_size=1, num_workers=0, drop_last=True, collate_fn=collate_fn)


def horizons(rows: Any, number: int) -> list[tuple[int, int]]:
    drawn = [json.loads(next(rows)["env_task"][0]) for _ in range(number)]
    return [(task["seed"], task["options"]["horizon"]) for task in drawn]


def test_a_task_changes_its_horizon_and_nothing_else():
    plain, ours = dataset(enable=False), dataset()
    assert plain.curriculum is None
    ours.curriculum.success = {2: 1.0, 4: 0.5, 6: 0.0}
    one, other = json.loads(plain[7]["env_task"]), json.loads(ours[7]["env_task"])
    drawn = other["options"].pop("horizon")
    assert drawn == ours.curriculum.horizon_of(7)
    assert ours[7]["data_source"] == f"h{drawn}"
    del one["options"]["horizon"]
    assert one == other


def test_verls_loader_saves_the_means_and_a_resumed_run_draws_the_same_tasks(tmp_path):
    first = dataset()
    unbroken = loader(first)
    rows = iter(unbroken)
    horizons(rows, 12)
    first.curriculum.observe([group(2, 1, 1), group(4, 1, 0), group(6, 0, 0)])
    torch.save(unbroken.state_dict(), tmp_path / "data.pt")
    expected = horizons(rows, 12)

    check_pickle(tmp_path / "data.pt")
    resumed = loader(dataset())
    resumed.load_state_dict(torch.load(tmp_path / "data.pt", weights_only=True))
    assert horizons(iter(resumed), 12) == expected
    # without the means the tasks would be others
    assert [horizon for _, horizon in expected] != [dataset().curriculum.horizon_of(index) for index in range(12, 24)]


def test_a_checkpoint_from_before_the_curriculum_can_be_read():
    old = loader(dataset(enable=False))
    horizons(iter(old), 3)
    state = {**old.state_dict(), "dataset_state": None}
    resumed = loader(dataset(enable=False))
    resumed.load_state_dict(state)
    assert horizons(iter(resumed), 1) == horizons(iter(loader(dataset(enable=False))), 4)[3:]
