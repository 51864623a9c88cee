"""The hops of benchmarks/rollout.py: which time belongs to which hop, also where a stack lacks one."""

import asyncio
import json
import os
import sys
import types

import pytest

from benchmarks import rollout_probe as probe
from benchmarks.rollout_hops import batches, hops

# one turn through everything: 1 in the loop, 2 for a server, 3 to it, 4 in it, ...
FULL = (
    (probe.ASKED, 1.0),
    (probe.SENT, 3.0),
    (probe.SERVER_IN, 6.0),
    (probe.ENGINE_IN, 10.0),
    (probe.CORE_IN, 15.0),
    (probe.CORE_OUT, 35.0),
    (probe.ENGINE_OUT, 36.0),
    (probe.SERVER_OUT, 38.0),
    (probe.ANSWERED, 41.0),
)


def events(seams, turns=1, episode=(50.0, 4.0), shift=0.0):
    """`turns` turns, the second one second later, of an episode of so many seconds and so many in the environment."""
    passed = [(name, at + turn + shift, 0.0) for turn in range(turns) for name, at in seams]
    values = zip((probe.EPISODE, probe.ENV, probe.TURNS, probe.TOKENS), (*episode, turns, 7), strict=True)
    return [*passed, *((name, 50.0 + shift, float(value)) for name, value in values)]


def test_every_second_of_a_turn_belongs_to_one_hop():
    # the loop: 50 in all, 4 in the environment, 40 from the question to the answer; the Ray call: 3 there, 3 back;
    # the server: 4 on the way in, 2 on the way out
    assert hops(events(FULL), 1) == {
        "agent loop": 6.0,
        "choice of a server": 2.0,
        "Ray call": 6.0,
        "server": 6.0,
        "engine's input": 5.0,
        "engine": 20.0,
        "engine's output": 1.0,
        "environment": 4.0,
    }


def test_hops_are_means_over_turns():
    # two turns of 40 s from question to answer: (100 - 8 - 80) / 2 in the loop
    found = hops(events(FULL, turns=2, episode=(100.0, 8.0)), 2)
    assert (found["engine"], found["agent loop"], found["environment"]) == (20.0, 6.0, 4.0)


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        # no message between loop and server: the time to it is the Ray call's
        ({probe.SENT}, {"Ray call": 8.0, "server": 6.0}),
        # loop and engine in one process: what lies between them is the loop's, 4 in the episode and 9 + 5 around
        ({probe.SENT, probe.SERVER_IN, probe.SERVER_OUT}, {"agent loop": 20.0, "engine's input": 5.0}),
        # the engine's own process is not seen: all between question and answer is the engine
        ({probe.CORE_IN, probe.CORE_OUT}, {"engine": 26.0, "server": 6.0}),
        # a scripted engine
        ({name for name, _ in FULL}, {"agent loop": 46.0, "environment": 4.0}),
    ],
)
def test_a_hop_that_a_stack_lacks_is_absent_and_its_time_is_not_lost(lost, expected):
    found = hops(events([seam for seam in FULL if seam[0] not in lost]), 1)
    assert {name: found[name] for name in expected} == expected
    assert sum(found.values()) == 50.0


def test_a_seam_that_some_turns_did_not_pass_counts_as_absent():
    assert "choice of a server" not in hops([*events(FULL, turns=2), (probe.SENT, 3.0, 0.0)], 2)


def test_a_batch_holds_the_episodes_between_its_two_ends_and_others_are_left_out():
    second = events(FULL, shift=100.0)
    edges = [(probe.BATCH_OUT, 0.0, 0.0), (probe.BATCH_IN, 60.0, 0.0), (probe.BATCH_OUT, 100.0, 0.0)]
    edges += [(probe.BATCH_IN, 170.0, 0.0), (probe.STEP, 130.0, 14.0), (probe.SEQUENCES, 130.0, 3.0)]
    first, last = batches([*second, *edges, *events(FULL)], num_episodes=1)
    assert (first.seconds, first.busy, last.seconds, last.around) == (60.0, None, 70.0, 20.0)
    assert (last.busy, last.sequences, last.tokens) == (14.0 / 70.0, 3.0, 7)
    assert batches([*second, *edges], num_episodes=2) == []


def test_a_probe_is_installed_once_and_a_class_that_is_not_there_is_passed_over(monkeypatch):
    async def generate(self):
        raise ValueError("the turn fails")

    server = type("vLLMHttpServer", (), {"generate": generate})
    module = types.SimpleNamespace(vLLMHttpServer=server)
    monkeypatch.setitem(sys.modules, probe._SERVER, module)
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.core", types.SimpleNamespace())
    probe.install()
    probe.install()
    probe.take()
    with pytest.raises(ValueError, match="the turn fails"):
        asyncio.run(server().generate())
    # a turn that fails leaves the server too
    assert [name for name, *_ in probe.take()] == [probe.SERVER_IN, probe.SERVER_OUT]


def test_the_events_of_all_processes_are_read(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps([probe.STEP, float(number), 0.5]) + "\n")
    assert probe.read(tmp_path) == [(probe.STEP, 1.0, 0.5), (probe.STEP, 2.0, 0.5)]
    assert probe.FOLDER not in os.environ
