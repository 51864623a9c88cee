"""The folder of an evaluation: nothing is lost, nothing is overwritten, nothing of another evaluation gets in."""

import json
import math
import os
from dataclasses import replace

import pyarrow.parquet
import pytest
import yaml

from tests.episode.fakes import FakeEnv, ScriptedGenerator, byte_tokenizer
from tests.evaluate.evaluation_fakes import environment, plan
from trm_agent.episode import ChatTokens, Limits, run_episode
from trm_agent.evaluate.engines.sampling import Sampling
from trm_agent.evaluate.plan import Key
from trm_agent.evaluate.results import is_failure, read_results, result_row
from trm_agent.evaluate.store import open_store


def opened(path, wanted=None):
    return open_store(wanted or plan(), path, path.parent, "eval-x")


def row(store, label, key, **changes):
    seed = store.plan.environment(key.env).task(key.task).seed
    values = {"success": True, "reward": 1.0, "stop_reason": "terminated", "error": None}
    return (
        {"checkpoint": label, "env": key.env, "task": key.task, "sample": key.sample, "seed": seed} | values | changes
    )


def filled(path, number, wanted=None):
    """A closed store with the first results of the first checkpoint."""
    store = opened(path, wanted)
    for key in store.plan.episodes()[:number]:
        store.append(row(store, "one", key))
    store.close()
    return path / "results.jsonl"


def test_results_are_there_again_and_only_the_rest_is_missing(tmp_path):
    filled(tmp_path / "e", 5)
    store = opened(tmp_path / "e")
    assert not store.is_new
    assert store.missing("one") == store.plan.episodes()[5:]
    assert store.missing("two") == store.plan.episodes()
    assert len(store.asked()) == 5


def test_failures_are_missing_and_a_later_result_replaces_them(tmp_path):
    store = opened(tmp_path / "e")
    key = store.plan.episodes()[3]
    store.append(row(store, "one", key, stop_reason="generator_error", success=False, reward=None, error="down"))
    store.close()
    store = opened(tmp_path / "e")
    assert key in store.missing("one")
    assert is_failure(store.asked()[0])
    store.append(row(store, "one", key))
    store.close()
    store = opened(tmp_path / "e")
    assert key not in store.missing("one")
    assert [each["stop_reason"] for each in store.asked()] == ["terminated"]
    assert len((tmp_path / "e" / "results.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_half_a_line_at_the_end_is_set_aside_and_its_episode_played_again(tmp_path, kept):
    file = filled(tmp_path / "e", 5)
    whole = file.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    file.write_bytes(whole[: -len(last)] + last[:kept])
    store = opened(tmp_path / "e")
    assert store.missing("one") == store.plan.episodes()[4:]
    assert file.read_bytes() == whole[: -len(last)]
    assert (tmp_path / "e" / "results.jsonl.truncated").read_bytes() == last[:kept] + b"\n"
    assert store.num_cut == len(last[:kept])
    store.append(row(store, "one", store.plan.episodes()[4]))
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("no json", "is not JSON"),
        ('{"checkpoint": "one"}', "has env=None"),
        ("[1]", "is a list, not an object"),
        ("", "is not JSON"),
        ("\0\0\0", "is not JSON"),
    ],
)
def test_junk_in_the_middle_is_an_error_that_names_the_line_and_nothing_is_written(tmp_path, line, told):
    file = filled(tmp_path / "e", 5)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n" + '{"half')
    before = {each.name: each.read_bytes() for each in (tmp_path / "e").iterdir()}
    with pytest.raises(ValueError, match=f"results.jsonl, line 3: {told}.*nothing was written"):
        opened(tmp_path / "e")
    assert {each.name: each.read_bytes() for each in (tmp_path / "e").iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"checkpoint": "three"}, "is of the checkpoint 'three'"),
        ({"env": "other"}, "is of the environment 'other'"),
        ({"seed": 1}, "has seed=1, task"),
        ({"task": -1}, "has seed="),
        ({"stop_reason": "tired"}, "has stop_reason='tired'"),
        ({"success": 1}, "has success=1"),
        ({"sample": True}, "has sample=True"),
    ],
)
def test_a_result_of_something_else_is_an_error(tmp_path, changes, told):
    file = filled(tmp_path / "e", 2)
    first = json.loads(file.read_text().splitlines()[0])
    file.write_text(json.dumps({**first, **changes}) + "\n")
    with pytest.raises(ValueError, match=f"line 1: {told}"):
        opened(tmp_path / "e")


def test_a_folder_of_other_settings_is_refused_and_says_which(tmp_path):
    file = filled(tmp_path / "e", 3)
    before = file.read_bytes(), (tmp_path / "e" / "config.yaml").read_bytes()
    for other, told in (
        (plan(sampling=Sampling(top_p=0.9)), "sampling.top_p: 1.0 -> 0.9"),
        (plan(fingerprints=("hash of one", "other")), "checkpoints.two.fingerprint: hash of two -> other"),
        (plan(("one",), fingerprints=("hash of one",)), "checkpoints.two"),
    ):
        with pytest.raises(ValueError, match=f"holds an evaluation of other settings .*{told}.*nothing was written"):
            opened(tmp_path / "e", other)
    assert (file.read_bytes(), (tmp_path / "e" / "config.yaml").read_bytes()) == before


def test_more_tasks_and_samples_go_on_and_fewer_take_nothing_away(tmp_path):
    filled(tmp_path / "e", 12)
    more = plan(samples=3, environments=(environment(num_tasks=9),))
    store = opened(tmp_path / "e", more)
    assert len(store.missing("one")) == 27 - 12
    assert yaml.safe_load((tmp_path / "e" / "config.yaml").read_text())["samples"] == 3
    store.close()
    store = opened(tmp_path / "e", plan(samples=1))
    assert store.missing("one") == []
    assert len(store.asked()) == 6
    assert len(store.rows) == 12


def test_files_of_something_else_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("env: {}\n")
    (tmp_path / "file").write_text("mine")
    for path, told in (
        (tmp_path / "mine", "no evaluation of ours"),
        (run, "no evaluation"),
        (tmp_path / "file", "is a file"),
    ):
        with pytest.raises(ValueError, match=told):
            opened(path)
    assert sorted(each.name for each in (tmp_path / "mine").iterdir()) == ["notes.txt"]
    assert sorted(each.name for each in run.iterdir()) == ["config.yaml"]


def test_a_second_process_is_refused(tmp_path):
    first = opened(tmp_path / "e")
    with pytest.raises(ValueError, match="another process is evaluating in it"):
        opened(tmp_path / "e")
    first.close()
    opened(tmp_path / "e").close()


def test_a_kill_before_the_first_result_leaves_a_folder_that_can_be_used(tmp_path):
    for left in ([], [".lock"], [".lock", "git.json", f".config.yaml.{os.getpid()}"]):
        path = tmp_path / f"e{len(left)}"
        path.mkdir()
        for name in left:
            (path / name).write_text("")
        assert opened(path).is_new


def test_without_a_folder_the_newest_unfinished_one_goes_on(tmp_path):
    filled(tmp_path / "eval-x-001", 3)
    filled(tmp_path / "eval-x-003", 3, plan(sampling=Sampling(seed=9)))
    (tmp_path / "eval-xx-009").mkdir()
    found = open_store(plan(), None, tmp_path, "eval-x")
    assert found.path == tmp_path / "eval-x-001"
    # in use: the next one gets a number of its own
    other = open_store(plan(), None, tmp_path, "eval-x")
    assert (other.path, other.is_new) == (tmp_path / "eval-x-004", True)
    other.close()
    for label in ("one", "two"):
        for key in found.missing(label):
            found.append(row(found, label, key))
    found.close()
    other = open_store(plan(), None, tmp_path, "eval-x")
    assert other.path == tmp_path / "eval-x-004"
    for label in ("one", "two"):
        for key in other.missing(label):
            other.append(row(other, label, key))
    other.close()
    # both are complete: a new one; more samples: the newest goes on
    assert open_store(plan(samples=3), None, tmp_path, "eval-x").path == tmp_path / "eval-x-004"
    assert open_store(plan(), None, tmp_path, "eval-x").path == tmp_path / "eval-x-005"


async def test_an_episodes_tokens_are_kept_and_read_back(tmp_path):
    tokenizer = byte_tokenizer()
    generator = ScriptedGenerator(tokenizer, ["hello<|im_end|>", "world<|im_end|>"])
    episode = await run_episode(
        lambda: FakeEnv([("tool", "the sum is 12")]),
        generator,
        ChatTokens(tokenizer),
        Limits(),
        env_id="fake",
        seed=3,
        options={"horizon": 2},
    )
    store = opened(tmp_path / "e")
    store.save_episode("two", Key("chain", 4, 1), episode)
    store.save_episode("two", Key("chain", 4, 1), episode)
    (row,) = pyarrow.parquet.read_table(tmp_path / "e" / "episodes").to_pylist()
    assert (row["prompt_ids"], row["response_ids"]) == (episode.prompt_ids, episode.response_ids)
    assert row["response_mask"] == episode.response_mask
    assert [math.isnan(value) for value in row["rollout_log_probs"]] == [not each for each in episode.response_mask]
    # nobody trains here
    assert (row["log_probs"], row["accepted"]) == (None, None)
    told = json.loads(row["episode"])
    assert {name: told[name] for name in ("checkpoint", "env", "task", "sample", "success")} == {
        "checkpoint": "two",
        "env": "chain",
        "task": 4,
        "sample": 1,
        "success": True,
    }
    assert told["turns"][0]["stop"] == episode.turns[0].token_span[1]


async def test_the_result_of_an_episode_is_clean_json(tmp_path):
    tokenizer = byte_tokenizer()
    episode = await run_episode(
        lambda: FakeEnv([("tool", "12")]),
        ScriptedGenerator(tokenizer, ["hello<|im_end|>"]),
        ChatTokens(tokenizer),
        Limits(),
        env_id="fake",
        seed=3,
        options={},
    )
    episode = replace(episode, numbers={"good": 0.5, "bad": math.nan})
    result = result_row("one", "chain", None, 0, 1, episode)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["numbers"], result["horizon"], result["turns"]) == ({"good": 0.5}, None, 2)
    assert result["model_tokens"] == episode.num_model_tokens < result["response_tokens"]
    (tmp_path / "results.jsonl").write_text(json.dumps(result) + "\n")
    assert read_results(tmp_path / "results.jsonl") == ([result], b"")
