"""Finished episodes on their way into verl's queue: the rows are verl's own, and many share a message."""

import asyncio
import types

import pytest

pytest.importorskip("verl")

import numpy as np
import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics
from verl.trainer.ppo.v1 import agent_loop_tq

from trm_agent.verl_plugin.rollout import outbox as outbox_module
from trm_agent.verl_plugin.rollout.distributions import EnvOutput
from trm_agent.verl_plugin.rollout.episodes_worker import _VERLS, row_of
from trm_agent.verl_plugin.rollout.outbox import Outbox, Row

GIVEN = {"uid": "u", "session_id": 3, "global_steps": 7, "raw_prompt": [{"role": "user"}], "env_task": "{}"}


def output(**changes) -> EnvOutput:
    fields = {
        "prompt_ids": [5, 6, 7],
        "response_ids": [1, 2, 3, 4],
        "response_mask": [1, 1, 0, 1],
        "response_logprobs": [-0.5, -0.25, 0.0, -1.0],
        "reward_score": 0.5,
        "num_turns": 5,
        "metrics": AgentLoopMetrics(generate_sequences=1.0, tool_calls=0.5),
        "extra_fields": {"reward_extra_info": {"acc": 1.0}, "min_global_steps": 6, "max_global_steps": 7},
        "arrays": {"episode_record": np.arange(3, dtype=np.uint8)},
    }
    return EnvOutput(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"arrays": {}},
        {"reward_score": 0.0, "response_ids": [1], "response_mask": [1], "response_logprobs": [0.0]},
        {"extra_fields": {"min_global_steps": None, "max_global_steps": None, "episode": {"task": "a"}}},
        {"prompt_ids": [9], "metrics": AgentLoopMetrics()},
    ],
)
async def test_a_row_is_the_one_that_verls_worker_puts(monkeypatch, changes):
    puts = []

    async def put(**message):
        puts.append(message)

    monkeypatch.setattr(agent_loop_tq.tq, "async_kv_batch_put", put)
    verls = object.__new__(_VERLS)
    verls.processor, verls.distillation_enabled, verls.reward_loop_worker_handles = None, False, None
    await _VERLS._agent_loop_postprocess(verls, output(**changes), False, **GIVEN)
    await Outbox(put).put(row_of(output(**changes), "train", GIVEN))
    theirs, ours = puts
    assert {key: theirs[key] for key in ("keys", "tags", "partition_id")} == {
        key: ours[key] for key in ("keys", "tags", "partition_id")
    }
    assert set(theirs["fields"].keys()) == set(ours["fields"].keys())
    for name in sorted(theirs["fields"].keys()):
        left, right = theirs["fields"][name], ours["fields"][name]
        if isinstance(left, torch.Tensor):
            assert left.dtype == right.dtype, name
            assert torch.equal(left, right), name
        else:
            assert list(left) == list(right), name


class Queue:
    """A queue that notes the keys of each message, and raises at some."""

    def __init__(self, bad: str = "") -> None:
        self.messages: list[list[str]] = []
        self.bad = bad

    async def put(self, keys, fields, tags, partition_id):
        self.messages.append(keys)
        await asyncio.sleep(0.01)
        assert len(fields) == len(keys) == len(tags)
        if self.bad in keys:
            raise OSError("the queue is gone")


def row(key: str, partition: str = "train", **fields) -> Row:
    return Row(partition, key, {"responses": torch.arange(len(key)), **fields}, {"status": "success"})


async def played(box: Outbox, key: str, seconds: float, row_: Row | None = None) -> str:
    """An episode that ends after some seconds."""
    with box.playing():
        await asyncio.sleep(seconds)
        await box.put(row_ or row(key))
    return key


async def test_rows_that_come_while_others_play_share_a_message_and_the_last_waits_for_nobody():
    queue, clock = Queue(), asyncio.get_running_loop().time
    box, began = Outbox(queue.put), clock()
    await asyncio.gather(played(box, "a", 0), played(box, "bb", 0.01), played(box, "ccc", 0.02))
    assert queue.messages == [["a", "bb", "ccc"]]
    assert clock() - began < outbox_module.GATHER_S


async def test_an_episode_that_never_ends_holds_no_other_up_for_long(monkeypatch):
    monkeypatch.setattr(outbox_module, "GATHER_S", 0.05)
    queue = Queue()
    box = Outbox(queue.put)
    hangs = asyncio.create_task(played(box, "never", 60))
    await asyncio.wait_for(played(box, "a", 0), 5)
    assert queue.messages == [["a"]]
    hangs.cancel()
    # and one that was cancelled is waited for no more
    monkeypatch.setattr(outbox_module, "GATHER_S", 60)
    await asyncio.wait_for(played(box, "b", 0), 5)


async def test_one_episode_without_a_row_is_waited_for_until_it_ends(monkeypatch):
    monkeypatch.setattr(outbox_module, "GATHER_S", 60)
    queue = Queue()
    box = Outbox(queue.put)

    async def fails() -> None:
        with box.playing():
            await asyncio.sleep(0.02)
            raise ValueError("no episode")

    results = await asyncio.wait_for(asyncio.gather(fails(), played(box, "a", 0), return_exceptions=True), 5)
    assert isinstance(results[0], ValueError)
    assert queue.messages == [["a"]]


async def test_rows_with_other_fields_or_of_another_partition_have_a_message_of_their_own():
    queue = Queue()
    box = Outbox(queue.put)
    rows = {"a": row("a"), "b": row("b", "val"), "c": row("c", record=torch.ones(2)), "d": row("d")}
    await asyncio.gather(*(played(box, key, 0, each) for key, each in rows.items()))
    assert queue.messages == [["a", "d"], ["b"], ["c"]]


async def test_a_message_that_fails_fails_its_own_episodes_and_the_next_ones_are_sent(monkeypatch):
    queue = Queue(bad="b")
    box = Outbox(queue.put)
    lost = await asyncio.gather(
        played(box, "a", 0), played(box, "b", 0), played(box, "v", 0, row("v", "val")), return_exceptions=True
    )
    assert [type(each) for each in lost] == [OSError, OSError, str]
    assert await played(box, "later", 0) == "later"


async def test_a_put_that_is_cancelled_fails_what_waits_and_the_next_row_is_sent():
    queue = Queue()

    async def put(keys, **message):
        if "lost" in keys:
            raise asyncio.CancelledError
        await queue.put(keys, **message)

    box = Outbox(put)
    both = asyncio.gather(
        played(box, "lost", 0), played(box, "v", 0, row("v", "val")), played(box, "late", 0.3), return_exceptions=True
    )
    told = await asyncio.wait_for(both, 5)
    assert [str(each) for each in told[:2]] == ["the row was not sent to the data queue: CancelledError"] * 2
    assert told[2] == "late"
    # and a sender that is itself cancelled, while it gathers, while nobody's row is out
    waits = asyncio.create_task(played(box, "a", 0))
    with box.playing():
        await asyncio.sleep(0.01)
        box._sender.cancel()
        with pytest.raises(RuntimeError, match="not sent"):
            await asyncio.wait_for(waits, 5)
    assert await asyncio.wait_for(played(box, "b", 0), 5) == "b"
    assert (box._playing, box._sender) == (0, None)


@pytest.mark.parametrize("bad", [torch.ones(2, 3, 4), torch.ones(2, dtype=torch.complex64).conj()])
async def test_a_row_that_goes_with_no_other_fails_no_other(bad):
    queue = Queue()
    box = Outbox(queue.put)
    rows = {"a": torch.ones(3), "bad": bad, "c": torch.ones(4), "d": torch.ones(5)}
    told = await asyncio.gather(
        *(played(box, key, 0, row(key, value=value)) for key, value in rows.items()), return_exceptions=True
    )
    assert [told[at] for at in (0, 2, 3)] == ["a", "c", "d"]


async def test_a_message_has_a_size_at_most_and_a_larger_row_has_its_own(monkeypatch):
    monkeypatch.setattr(outbox_module, "MOST_BYTES", 100)
    queue = Queue()
    box = Outbox(queue.put)
    # 8 bytes for the key's letter, and these
    sizes = {"a": 40, "b": 40, "c": 40, "d": 400, "e": 8, "f": 0}
    await asyncio.gather(
        *(played(box, key, 0, row(key, record=torch.ones(size, dtype=torch.uint8))) for key, size in sizes.items())
    )
    assert queue.messages == [["a", "b"], ["c"], ["d"], ["e", "f"]]


async def test_a_batch_of_many_takes_few_messages_and_every_row_arrives():
    queue = Queue()
    box = Outbox(queue.put)
    keys = [f"u{task}_{session}_0" for task in range(16) for session in range(8)]
    assert await asyncio.gather(*(played(box, key, number / 2000) for number, key in enumerate(keys))) == keys
    assert sorted(key for message in queue.messages for key in message) == sorted(keys)
    assert len(queue.messages) <= 4


def test_our_class_is_verls():
    assert isinstance(_VERLS, type)
    assert isinstance(_VERLS._run_prompt, types.FunctionType)
