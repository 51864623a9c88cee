"""The runner plays what is missing, whatever happens in between. Engines are fakes; the episodes are the real loop."""

import asyncio
import json

import pyarrow.parquet
import pytest

from tests.evaluate.evaluation_fakes import FakeEngines, environment, plan
from trm_agent.evaluate.results import is_failure
from trm_agent.evaluate.runner import MAX_FAILURES, NothingPlayed, play_missing
from trm_agent.evaluate.store import open_store

TIMINGS = ("generate_s", "env_s", "total_s")


def opened(path, wanted=None):
    return open_store(wanted or plan(), path, path.parent, "eval-x")


async def played(path, engines, wanted=None, **settings):
    """The results after playing what is missing, without their timings."""
    store = opened(path, wanted)
    try:
        await play_missing(store, engines, **{"concurrency": 4, "say": lambda line: None, **settings})
    finally:
        store.close()
    return results(store)


def results(store):
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in store.asked()]


async def test_all_checkpoints_play_the_same_tasks_with_the_same_seeds(tmp_path):
    engines = FakeEngines()
    rows = await played(tmp_path / "e", engines)
    assert engines.opened == ["one", "two"]
    assert len(rows) == 24
    assert sorted(engines.engines[0].seeds) == sorted(engines.engines[1].seeds)
    assert len(set(engines.engines[0].seeds)) == 12
    one, two = ([{**row, "checkpoint": ""} for row in rows if row["checkpoint"] == label] for label in ("one", "two"))
    # the fakes draw by the seed alone
    assert one == two
    assert {row["stop_reason"] for row in rows} == {"terminated"}
    assert {(row["task"] % 3) + 1 == row["horizon"] for row in rows} == {True}


async def test_a_complete_checkpoint_starts_no_engine(tmp_path):
    await played(tmp_path / "e", FakeEngines())
    engines = FakeEngines()
    await played(tmp_path / "e", engines)
    assert engines.opened == []


async def test_so_many_episodes_are_in_flight_and_no_more(tmp_path):
    engines = FakeEngines(delay_s=0.01)
    await played(tmp_path / "e", engines, concurrency=3)
    assert [engine.most_at_once for engine in engines.engines] == [3, 3]


async def test_fewer_episodes_are_in_flight_where_an_engine_keeps_fewer(tmp_path):
    engines, said = FakeEngines(delay_s=0.01, at_once=2), []
    await played(tmp_path / "e", engines, concurrency=3, say=said.append)
    assert [engine.most_at_once for engine in engines.engines] == [2, 2]
    assert said.count("one: 2 episodes in play at once, not 3: what the cache holds") == 1
    said.clear()
    await played(tmp_path / "f", FakeEngines(at_once=3), concurrency=3, say=said.append)
    assert not any("in play" in line for line in said)


@pytest.mark.parametrize("after", [1, 7, 15])
async def test_stopped_at_any_moment_and_run_again_it_equals_an_unbroken_run(tmp_path, after):
    unbroken = await played(tmp_path / "unbroken", FakeEngines())
    store = opened(tmp_path / "e")
    playing = asyncio.create_task(
        play_missing(store, FakeEngines(delay_s=0.002), concurrency=4, num_saved=3, say=lambda line: None)
    )
    while len(store.rows) < after:
        await asyncio.sleep(0.001)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    store.close()
    kept = len(store.rows)
    assert after <= kept < 24
    with (tmp_path / "e" / "results.jsonl").open("ab") as file:
        file.write(b'{"checkpoint": "one", "env": "ch')
    engines = FakeEngines()
    assert await played(tmp_path / "e", engines, num_saved=3) == unbroken
    assert sum(len(engine.seeds) for engine in engines.engines) == 24 - kept
    assert len(list((tmp_path / "e" / "episodes").glob("*.parquet"))) == 6


async def test_failed_episodes_are_results_and_are_played_again(tmp_path):
    unbroken = await played(tmp_path / "unbroken", FakeEngines())
    bad = {plan().sampling_seed(key) for key in plan().episodes()[2:5]}
    rows = await played(tmp_path / "e", FakeEngines(fails=lambda seed: seed in bad))
    assert sum(map(is_failure, rows)) == 6
    assert {row["stop_reason"] for row in rows if is_failure(row)} == {"generator_error"}
    engines = FakeEngines()
    assert await played(tmp_path / "e", engines) == unbroken
    assert [len(engine.seeds) for engine in engines.engines] == [3, 3]


async def test_what_failed_is_played_once_more_at_the_end_and_no_more(tmp_path):
    unbroken = await played(tmp_path / "unbroken", FakeEngines())
    bad, seen = {plan().sampling_seed(key) for key in plan().episodes()[2:5]}, []

    def fails(seed):
        seen.append(seed)
        return seed in bad and seen.count(seed) == 1

    engines = FakeEngines(fails=fails)
    assert await played(tmp_path / "once", engines, plan(("one",))) == [
        row for row in unbroken if row["checkpoint"] == "one"
    ]
    assert (engines.opened, sorted(engines.engines[0].seeds[12:])) == (["one"], sorted(bad))
    engines = FakeEngines(fails=lambda seed: seed in bad)
    rows = await played(tmp_path / "always", engines, plan(("one",)))
    assert (len(engines.engines[0].seeds), sum(map(is_failure, rows))) == (15, 3)


@pytest.mark.slow
async def test_a_broken_engine_is_given_up_and_closed(tmp_path):
    wanted = plan(samples=20)
    engines = FakeEngines(fails=lambda seed: True)
    with pytest.raises(NothingPlayed, match=f"one: the last {MAX_FAILURES} episodes failed.*the fake engine fails"):
        await played(tmp_path / "e", engines, wanted)
    assert (engines.opened, engines.num_open) == (["one"], 0)
    assert len(engines.engines[0].seeds) < 120
    assert {row["checkpoint"] for row in await played(tmp_path / "e", FakeEngines(), wanted)} == {"one", "two"}


async def test_more_samples_go_on_where_the_last_command_ended(tmp_path):
    first = await played(tmp_path / "e", FakeEngines())
    engines = FakeEngines()
    rows = await played(tmp_path / "e", engines, plan(samples=3))
    assert [row for row in rows if row["sample"] < 2] == first
    assert [len(engine.seeds) for engine in engines.engines] == [6, 6]


async def test_a_bounded_number_of_episodes_keeps_its_tokens(tmp_path):
    await played(tmp_path / "e", FakeEngines(), num_saved=5)
    table = pyarrow.parquet.read_table(tmp_path / "e" / "episodes")
    records = [json.loads(text) for text in table["episode"].to_pylist()]
    assert sorted((each["checkpoint"], each["task"]) for each in records) == [
        (label, task) for label in ("one", "two") for task in range(5)
    ]


async def test_several_environments_keep_their_own_tasks_and_limits(tmp_path):
    short = environment(name="short", fixed_limits={"max_prompt_tokens": 1})
    wanted = plan(("one",), environments=(environment(), short), samples=1)
    rows = await played(tmp_path / "e", FakeEngines(), wanted)
    reasons = {(row["env"], row["stop_reason"]) for row in rows}
    assert reasons == {("chain", "terminated"), ("short", "prompt_too_long")}
    assert [row["seed"] for row in rows[:6]] == [row["seed"] for row in rows[6:]]
