"""A dump's groups: whole, drawn without regard to length or rank, and named by their task."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from trm_agent.episode.record import task_name
from trm_agent.trust_region.dump import task_of_prompt
from trm_agent.trust_region.settings import DumpConfig
from trm_agent.verl_plugin.actor.dumping import collect_rows
from trm_agent.verl_plugin.actor.update import Update
from trm_agent.verl_plugin.driver import dump_tasks
from trm_agent.verl_plugin.driver.dump_tasks import chosen_tasks, tasks_in

TASKS = [f"task{index}" for index in range(16) for _ in range(8)]


def test_all_are_chosen_where_all_fit():
    assert chosen_tasks(TASKS, 128, 0, 10) is None
    assert chosen_tasks([], 1, 0, 10) is None


@pytest.mark.parametrize(("most", "count"), [(127, 15), (64, 8), (63, 7), (8, 1), (1, 1)])
def test_as_many_whole_groups_are_chosen_as_fit_and_at_least_one(most, count):
    chosen = chosen_tasks(TASKS, most, 0, 10)
    assert len(chosen) == len(set(chosen)) == count


def test_the_choice_follows_from_seed_step_and_tasks_whatever_their_order():
    chosen = chosen_tasks(TASKS, 32, 0, 10)
    assert chosen == chosen_tasks(list(reversed(TASKS)), 32, 0, 10)
    others = [chosen_tasks(TASKS, 32, seed, step) for seed, step in ((1, 10), (0, 20), (2, 30))]
    assert all(set(other) != set(chosen) for other in others)


def test_every_task_is_chosen_alike_often():
    counts = dict.fromkeys(TASKS, 0)
    for step in range(400):
        for task in chosen_tasks(TASKS, 32, 0, step):
            counts[task] += 1
    # 100 each on average, with a standard deviation of 8.7
    assert 65 <= min(counts.values()) <= max(counts.values()) <= 135


def test_groups_of_different_sizes_fit_or_end_the_choice():
    chosen = chosen_tasks(["a"] * 5 + ["b"] * 3 + ["c"] * 4, 8, 0, 1)
    sizes = {"a": 5, "b": 3, "c": 4}
    assert sum(sizes[task] for task in chosen) <= 8


def test_the_driver_names_tasks_by_their_episodes_else_by_their_prompts(monkeypatch):
    name = task_name("trm/ChainMath-v0", 3, {"horizon": 2})
    stored = {
        "extra_fields": [{"episode": {"task": name}}, {"other": 1}, {}],
        "prompts": [torch.tensor([1, 2]), torch.tensor([1, 2]), torch.tensor([3])],
    }
    asked = {}

    def kv_batch_get(**fields):
        asked.update(fields)
        return stored

    monkeypatch.setattr(dump_tasks.tq, "kv_batch_get", kv_batch_get)
    batch = SimpleNamespace(keys=["a", "b", "c", "d"], tags=[{}, {}, {"is_padding": True}, {}], partition_id="train")
    assert tasks_in(batch) == [name, task_of_prompt([1, 2]), task_of_prompt([3])]
    assert (asked["keys"], asked["partition_id"]) == (["a", "b", "d"], "train")


def test_a_task_has_one_name_for_all_its_episodes_and_no_other_task_has_it():
    names = {
        task_name(env_id, seed, options)
        for env_id in ("a", "b")
        for seed in (0, 1, None)
        for options in ({}, {"horizon": 2, "split": "train"}, {"horizon": 4, "split": "train"})
    }
    assert len(names) == 18
    assert task_name("a", 1, {"x": 1, "y": 2}) == task_name("a", 1, {"y": 2, "x": 1})


def micro_batch(prompts, with_records):
    """Sequences of 2, 3, ... response tokens, of which the last two are sampled; one task per prompt."""
    lengths = [2 + index for index in range(len(prompts))]

    def nested(rows):
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    fields = {
        "prompts": nested([torch.tensor([prompt]) for prompt in prompts]),
        "responses": nested([torch.arange(length) for length in lengths]),
        "response_mask": nested([torch.tensor([0] * (length - 2) + [1, 1]) for length in lengths]),
        "advantages": nested([torch.full((length,), float(length)) for length in lengths]),
        "rollout_log_probs": nested([torch.full((length,), -1.0) for length in lengths]),
    }
    if with_records:
        texts = [json.dumps({"task": f"task{prompt}"}).encode() for prompt in prompts]
        fields["episode_record"] = nested([torch.from_numpy(np.frombuffer(text, np.uint8).copy()) for text in texts])
    return TensorDict(fields, batch_size=len(prompts)), max(lengths)


def collected(prompts, tasks, with_records=True):
    data, width = micro_batch(prompts, with_records)
    rejected = torch.tensor([prompt == 9 for prompt in prompts])
    sequences = SimpleNamespace(accepted=~rejected, rejected_by={"max": rejected, "avg": torch.zeros_like(rejected)})
    update = Update(step=3, dump=DumpConfig(), tasks=tasks)
    update.parts.append(SimpleNamespace(sequences=sequences))
    # whole distributions of three tokens: each sampled token has its number
    full = torch.arange(2 * len(prompts)).float().unsqueeze(-1).expand(-1, 3)
    data["rollout_full_log_probs"] = torch.nested.as_nested_tensor(
        [torch.zeros(len(mask), 3) for mask in data["response_mask"].unbind()], layout=torch.jagged
    )
    collect_rows(update, data, torch.full((len(prompts), width), -2.0), None, full)
    return update.rows


def test_only_the_chosen_tasks_are_collected_each_with_its_own_tokens():
    rows = collected([7, 9, 7, 8], frozenset({"task7", "task9"}))
    assert [row["task"] for row in rows] == ["task7", "task9", "task7"]
    assert [len(row["response_ids"]) for row in rows] == [2, 3, 4]
    assert [row["rejected_by"] for row in rows] == [[], ["max"], []]
    assert [row["accepted"] for row in rows] == [True, False, True]
    firsts = [np.frombuffer(row["full_log_probs"], np.float32)[0] for row in rows]
    assert firsts == [0, 2, 4]


def test_the_most_likely_tokens_are_collected_of_every_kind_of_distributions():
    data, width = micro_batch([7, 8], True)
    log_probs = torch.tensor([-0.5, -1.0]).log_softmax(-1)

    def rows(data) -> list[dict]:
        update = Update(step=3, dump=DumpConfig())
        nothing = torch.zeros(2, dtype=torch.bool)
        update.parts.append(SimpleNamespace(sequences=SimpleNamespace(accepted=~nothing, rejected_by={})))
        collect_rows(update, data, torch.full((2, width), -2.0), None, None)
        return update.rows

    assert "rollout_top_ids" not in rows(data)[0]
    lengths = [len(mask) for mask in data["response_mask"].unbind()]

    def nested(values: torch.Tensor) -> torch.Tensor:
        return torch.nested.as_nested_tensor([values.expand(length, -1) for length in lengths], layout=torch.jagged)

    listed = data.clone()
    listed["rollout_top_ids"], listed["rollout_top_log_probs"] = nested(torch.tensor([5, 2])), nested(log_probs)
    replayed = data.clone()
    kept = torch.cat([log_probs, torch.tensor([-torch.inf])])
    replayed["rollout_kept_ids"], replayed["rollout_kept_log_probs"] = nested(torch.tensor([5, 2, 0])), nested(kept)
    whole = data.clone()
    whole["rollout_full_log_probs"] = nested(torch.tensor([-9.0, -8.0, -7.0, -6.0, -5.0, 0.0]).log_softmax(-1))
    largest_of_whole = whole["rollout_full_log_probs"].values().max()
    for of, largest in ((listed, log_probs[0]), (replayed, log_probs[0]), (whole, largest_of_whole)):
        found = rows(of)[1]
        # three tokens, of which the model sampled the last two
        assert found["rollout_top_ids"] == [-1, 5, 5]
        np.testing.assert_allclose(found["rollout_top_log_probs"], [np.nan, largest, largest], rtol=1e-6)


def test_without_records_the_prompt_names_the_task():
    rows = collected([7, 8, 7], frozenset({task_of_prompt([7])}), with_records=False)
    assert [row["task"] for row in rows] == [task_of_prompt([7])] * 2


def test_without_a_choice_all_are_collected_however_many():
    assert len(collected([7] * 200, None)) == 200
