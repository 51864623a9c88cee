"""How many episodes begin, and what a share of failures does."""

import asyncio
import logging
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

pytest.importorskip("verl")

import transfer_queue as tq
from verl.trainer.ppo.v1 import trainer_base

from tests.verl_plugin.test_dataset_and_metrics import episode
from trm_agent.runs.compose import compose_run
from trm_agent.verl_plugin.driver import trainer
from trm_agent.verl_plugin.driver.async_buffer import EVICTED
from trm_agent.verl_plugin.driver.infrastructure_share import InfrastructureShare, TooManyFailures
from trm_agent.verl_plugin.driver.queue_clock import QueueClock
from trm_agent.verl_plugin.rollout.failed import FAILURES
from trm_agent.verl_plugin.rollout.places import engine_place, places_per_worker

NANO = compose_run(["experiment=math_nano"])


def failed(*errors: str) -> list[dict]:
    return [{"stop_reason": "env_error", "error": error} for error in errors]


def config(**changes):
    changed = NANO.copy()
    for name, value in changes.items():
        changed.actor_rollout_ref.rollout[name] = value
    return changed


def test_places_are_the_engines_sequences_over_the_workers():
    assert places_per_worker(NANO) == 128
    large = compose_run(["experiment=math_qwen3_8b"])
    # 8 devices, each an engine of verl's 256 sequences by default
    rollout = large.actor_rollout_ref.rollout
    assert (rollout.tensor_model_parallel_size, rollout.max_num_seqs) == (1, 256)
    assert places_per_worker(large) * rollout.agent.num_workers == 8 * 256
    assert places_per_worker(config(max_num_seqs=3, tensor_model_parallel_size=64)) == 3


async def test_no_more_episodes_begin_than_the_engine_has_places_for():
    few = places_per_worker(config(max_num_seqs=3))
    inside = most = 0

    async def episode() -> None:
        nonlocal inside, most
        async with engine_place(few):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(episode() for _ in range(20)))
    assert most == 3


def test_a_small_share_is_silent_and_a_larger_one_warns_with_the_first_error(caplog):
    share = InfrastructureShare(0.02, 0.2, 3)
    with caplog.at_level(logging.WARNING):
        assert share.observe(1, 98, failed("x", "y")) == 0.02
        assert not caplog.records
        assert share.observe(2, 97, failed("the disk\nis full", "y", "z")) == 0.03
    assert "step 2: 3.0 % of the episodes could not be played, the first: env_error: the disk is full" in caplog.text
    share.check()


def test_a_large_share_over_three_steps_in_a_row_ends_the_run_with_the_first_error():
    share = InfrastructureShare(0.02, 0.2, 3)
    for step in (1, 2):
        share.observe(step, 7, failed("first", "second") if step == 1 else failed("third", "fourth"))
        share.check()
    share.observe(3, 0, failed("fifth"))
    with pytest.raises(
        TooManyFailures, match=r"more than 20 % .* 3 steps in a row .*the first: step 1, env_error: first"
    ):
        share.check()


def test_steps_that_are_not_in_a_row_end_nothing():
    share = InfrastructureShare(0.02, 0.2, 3)
    for step, failures in enumerate([failed("a"), failed("b"), [], failed("c"), failed("d")]):
        share.observe(step, 1, failures)
        share.check()
    # exactly the share is not above it
    share.observe(6, 4, failed("e"))
    share.check()
    assert share.num_steps == 0


def test_a_share_of_one_never_ends_a_run():
    share = InfrastructureShare(0.02, 1.0, 1)
    assert share.observe(1, 0, failed("a")) == 1.0
    share.check()
    assert share.observe(2, 0, []) == 0.0


def test_the_trainer_ends_before_the_step_that_would_follow(tmp_path):
    ours = object.__new__(trainer.trainer_class("sync"))
    ours.config = OmegaConf.merge(NANO, {"run": {"dir": str(tmp_path)}})
    ours.global_steps, ours.parameter_sync_step = 1, 1
    ours.llm_server_manager = SimpleNamespace(server_handles=[])
    ours.replay_buffer = SimpleNamespace(queue_clock=QueueClock())
    for step in (1, 2, 3):
        ours.on_step_begin()
        assert ours._infrastructure().observe(step, 1, failed("the first", "x")) > 0.2
    with pytest.raises(TooManyFailures, match=r"3 steps in a row .*: step 1, env_error: the first"):
        ours.on_step_begin()


def test_the_share_is_that_of_the_tasks_that_have_left_the_queue(tmp_path, monkeypatch):
    ours = object.__new__(trainer.trainer_class("colocate_async"))
    ours.config = OmegaConf.merge(NANO, {"run": {"dir": str(tmp_path)}})
    ours.train_dataset, ours.replay_buffer = SimpleNamespace(curriculum=None), SimpleNamespace(watch=None)
    failures = FAILURES.format(stream="train")
    queue = {
        "train": {"c": {"is_prompt": True}, "c_0_0": {}},
        failures: {f"{uid}{row}": {"uid": uid, **failed("x")[0]} for uid, row in ("a0", "c0", "c1", "c2")},
    }
    monkeypatch.setattr(tq, "kv_list", lambda name: {name: dict(queue.get(name, {}))})
    monkeypatch.setattr(tq, "kv_clear", lambda keys, partition_id: [queue[partition_id].pop(key) for key in keys])
    monkeypatch.setattr(tq, "kv_batch_get", lambda keys, **_: {"extra_fields": [{"episode": told} for told in keys]})
    monkeypatch.setattr(trainer_base.PPOTrainer, "_compute_metrics", lambda *_: None)
    monkeypatch.setattr(ours, "_idle_metrics", lambda _: {})

    def step(number: int, num_trained: int, **metrics: float) -> tuple[float, float]:
        batch = SimpleNamespace(keys=[episode(1, True)] * num_trained, tags=[{}] * num_trained, partition_id="train")
        ours._compute_metrics(batch, metrics, {"step": 1.0}, number, 0)
        return metrics["env/infrastructure_failures"], metrics["env/infrastructure_share"]

    # of task a and others 3 were trained on and 4 dropped, beside one failure; those of c, in play, count with c
    assert step(1, 3, **{EVICTED: 4.0}) == (1, 1 / 8)
    assert set(queue[failures]) == {"c0", "c1", "c2"}
    del queue["train"]["c"]
    assert step(2, 5) == (3, 3 / 8)
    assert step(3, 5) == (0, 0)
