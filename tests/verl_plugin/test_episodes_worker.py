"""Our worker of agent loops: which way an episode goes, ours or verl's."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

import yaml
from verl.trainer.ppo.v1 import AgentLoopManagerTQ

from tests.verl_plugin.test_outbox import GIVEN, Queue, output
from tests.verl_plugin.test_overlong import output_of
from tests.verl_plugin.test_overlong import played as played_episode
from trm_agent.episode.outcomes import StopReason
from trm_agent.runs.sampling_settings import OverlongConfig
from trm_agent.verl_plugin.rollout import episodes_worker, failed
from trm_agent.verl_plugin.rollout.agent_loop import EnvAgentLoop
from trm_agent.verl_plugin.rollout.episodes_worker import _VERLS, NAME, EpisodesWorker, WorkersOfEpisodes
from trm_agent.verl_plugin.rollout.failed import FAILURES
from trm_agent.verl_plugin.rollout.outbox import Outbox
from trm_agent.verl_plugin.rollout.versions import VERSIONS

AT = {"step": 7, "sample_index": 0, "rollout_n": 0, "validate": False}


@pytest.fixture
def ways(monkeypatch) -> list[tuple[str, dict]]:
    """What verl's own methods were asked, in order."""
    noted: list[tuple[str, dict]] = []

    def note(name):
        async def call(*_, **given):
            noted.append((name, given))

        return call

    for name in ("_run_agent_loop", "_agent_loop_postprocess"):
        monkeypatch.setattr(_VERLS, name, note(name))
    return noted


def worker(queue: Queue, **changes) -> EpisodesWorker:
    made = object.__new__(EpisodesWorker)
    made._outbox = Outbox(queue.put)
    made.llm_client, made.tokenizer = "client", "tokenizer"
    made.processor, made.distillation_enabled = None, False
    vars(made).update(changes)
    return made


@pytest.fixture
def played(monkeypatch) -> list:
    """What our agent loop was built with and asked; it plays an episode at once."""
    noted: list = []

    class Loop:
        def __init__(self, *given):
            noted.append(given)

        async def run(self, sampling_params, **fields):
            noted.append((sampling_params, fields))
            return [] if fields.get("fails") else output()

    monkeypatch.setattr(episodes_worker, "EnvAgentLoop", Loop)
    return noted


@pytest.mark.parametrize(("validate", "partition"), [(False, "train"), (True, "val")])
async def test_an_episode_of_ours_is_played_without_verls_way_and_its_row_is_put(ways, played, validate, partition):
    partitions = []

    async def put(keys, partition_id, **_):
        partitions.append((keys, partition_id))

    made = worker(SimpleNamespace(put=put))
    await made._run_agent_loop({"top_p": 1}, AT | {"validate": validate}, agent_name=NAME, trace=False, **GIVEN)
    assert played == [(made, "client", "tokenizer"), ({"top_p": 1}, GIVEN)]
    assert (partitions, ways) == ([(["u_3_0"], partition)], [])


async def test_another_agent_loop_goes_verls_way_whole(ways, played):
    given = {"agent_name": "tool_agent", "trace": False, **GIVEN}
    await worker(Queue())._run_agent_loop({"top_p": 1}, AT, **given)
    assert (ways, played) == ([("_run_agent_loop", given)], [])


@pytest.mark.parametrize("changes", [{"processor": "images"}, {"distillation_enabled": True}, {"fails": True}])
async def test_what_our_rows_do_not_hold_is_stored_by_verl(ways, played, changes):
    queue, fails = Queue(), changes.pop("fails", False)
    await worker(queue, **changes)._run_agent_loop({}, AT, agent_name=NAME, trace=False, **GIVEN, fails=fails)
    assert [name for name, _ in ways] == ["_agent_loop_postprocess"]
    assert queue.messages == []


@pytest.fixture
def tags(monkeypatch) -> list[tuple[str, dict]]:
    """The tags that reach the queue, with their partitions, in order."""
    noted: list[tuple[str, dict]] = []

    async def put(key, partition_id, tag):
        noted.append((partition_id, tag))

    monkeypatch.setattr(failed.tq, "async_kv_put", put)
    return noted


def told(error: str) -> dict:
    return {"uid": "u", "stop_reason": "worker_error", "error": error, "late_turn_tokens": None}


@pytest.mark.parametrize(("validate", "stream"), [(False, "train"), (True, "val")])
async def test_an_agent_loop_that_raises_is_counted_and_raises_all_the_same(validate, stream, monkeypatch, tags):
    async def run(*_, **__):
        raise TypeError("no such option")

    monkeypatch.setattr(episodes_worker, "EnvAgentLoop", lambda *_: SimpleNamespace(run=run))
    with pytest.raises(TypeError, match="no such option"):
        await worker(Queue())._run_agent_loop({}, AT | {"validate": validate}, agent_name=NAME, trace=False, **GIVEN)
    assert tags == [(FAILURES.format(stream=stream), told("TypeError: no such option"))]


async def test_so_is_an_agent_loop_of_others(monkeypatch, tags):
    async def run(*_, **__):
        raise TypeError("no such option")

    monkeypatch.setattr(_VERLS, "_run_agent_loop", run)
    with pytest.raises(TypeError, match="no such option"):
        await worker(Queue())._run_agent_loop({}, AT, agent_name="tool_agent", trace=False, **GIVEN)
    assert tags == [(FAILURES.format(stream="train"), told("TypeError: no such option"))]


async def test_a_row_that_the_queue_does_not_take_is_counted_and_raises_all_the_same(played, tags):
    async def put(**_):
        raise OSError("the queue is full")

    with pytest.raises(OSError, match="the queue is full"):
        await worker(SimpleNamespace(put=put))._run_agent_loop({}, AT, agent_name=NAME, trace=False, **GIVEN)
    assert tags == [(FAILURES.format(stream="train"), told("OSError: the queue is full"))]


async def test_a_queue_that_takes_nothing_hides_no_error(played, monkeypatch):
    async def put(**_):
        raise OSError("the queue is full")

    async def put_tag(**_):
        raise OSError("gone")

    monkeypatch.setattr(failed.tq, "async_kv_put", put_tag)
    with pytest.raises(OSError, match="the queue is full"):
        await worker(SimpleNamespace(put=put))._run_agent_loop({}, AT, agent_name=NAME, trace=False, **GIVEN)


async def test_a_failure_is_counted_before_verl_ends_its_task_and_the_other_episode_is_stored(monkeypatch, tags):
    class Loop:
        def __init__(self, *_):
            pass

        async def run(self, _, **fields):
            if fields["session_id"] == 0:
                raise TypeError("no such option")
            return output()

    monkeypatch.setattr(episodes_worker, "EnvAgentLoop", Loop)
    rows = []

    async def put(keys, **_):
        rows.extend(keys)

    made = worker(SimpleNamespace(put=put))
    made.config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=SimpleNamespace(n=2)))
    prompt = {name: value for name, value in GIVEN.items() if name != "session_id"}
    await made._run_prompt({**prompt, "agent_name": NAME}, {}, AT)
    train = [("train", {"status": status}) for status in ("running", "failure")]
    assert tags == [train[0], (FAILURES.format(stream="train"), told("TypeError: no such option")), train[1]]
    assert rows == ["u_1_0"]


@pytest.mark.parametrize("stream", ["train", "val"])
@pytest.mark.parametrize(
    ("extra", "num_recorded", "error"),
    [
        ({VERSIONS: [3] * 11}, 0, "the rollout server recorded 11 versions for 12 tokens"),
        ({}, 3, "the rollout server recorded no distributions for 12 tokens"),
    ],
)
async def test_a_record_that_does_not_fit_its_tokens_is_a_failure_of_the_engine(
    extra, num_recorded, error, stream, monkeypatch
):
    episode = played_episode(StopReason.MAX_TURNS, 0.5)
    episode.extras = [extra]
    found, tags = await output_of(episode, OverlongConfig(), stream, monkeypatch, num_recorded)
    if num_recorded and stream == "val":
        # a validation records no distributions
        assert (found.reward_score, tags) == (0.5, [])
        return
    tag = {"uid": "u", "stop_reason": "generator_error", "error": error, "late_turn_tokens": None}
    assert (found, tags) == ([], [(FAILURES.format(stream=stream), tag)])


def test_our_agent_loop_has_the_name_that_verl_reads():
    (entry,) = yaml.safe_load(Path(episodes_worker.__file__).with_name("agent_loop.yaml").read_text())
    assert entry == {"name": NAME, "_target_": f"{EnvAgentLoop.__module__}.{EnvAgentLoop.__qualname__}"}


def test_the_manager_has_our_workers(monkeypatch):
    monkeypatch.setattr(AgentLoopManagerTQ, "__init__", lambda *_: None)
    actor = WorkersOfEpisodes(watch=None).agent_loop_workers_class.__ray_metadata__.modified_class
    assert issubclass(actor, EpisodesWorker)
