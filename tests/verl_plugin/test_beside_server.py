"""Agent loops in the server's process: verl's clients, the parts of a batch, and servers that end."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

import ray
import torch
from omegaconf import OmegaConf
from ray.exceptions import RayActorError
from tensordict import TensorDict
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient, LLMServerManager
from verl.workers.rollout.replica import TokenOutput

from trm_agent.fork_server.client import NEEDS_ALL
from trm_agent.runs import preflight_verl
from trm_agent.runs.compose import compose_run
from trm_agent.runs.groups import ENGINE_THREADS
from trm_agent.runs.preflight_training import agent_loops
from trm_agent.verl_plugin.rollout import loss_watch
from trm_agent.verl_plugin.rollout.beside_server import BesideServers, without_balancer
from trm_agent.verl_plugin.rollout.loss_watch import LossWatch
from trm_agent.verl_plugin.rollout.places import places_per_worker
from trm_agent.verl_plugin.rollout.playing_server import local_client

NANO = compose_run(["experiment=math_nano"])


def changed(config, **values):
    config = config.copy()
    for name, value in values.items():
        section, _, leaf = name.replace("__", ".").rpartition(".")
        OmegaConf.select(config, section)[leaf] = value
    return config


class Server:
    """A server that takes fields out of the parameters, as verl's does, and cuts each answer after two tokens."""

    def __init__(self, stop_reasons):
        self.stop_reasons, self.asked = list(stop_reasons), []

    async def generate(self, prompt_ids, sampling_params, **_):
        self.asked.append((list(prompt_ids), sampling_params.pop("max_tokens"), sampling_params.pop("logprobs")))
        prompt_ids.append(-1)
        fields = {"global_steps": len(self.asked)}
        return TokenOutput(
            token_ids=[7, 8], log_probs=[-1.0, -2.0], stop_reason=self.stop_reasons.pop(0), extra_fields=fields
        )


def ask(client, params, prompt):
    return asyncio.run(client.generate("request", prompt_ids=prompt, sampling_params=params))


def test_an_aborted_turn_is_resumed_with_the_parameters_as_they_were(monkeypatch):
    slept = []
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: _noted(slept, seconds))
    server, params, prompt = Server(["aborted", "aborted", "completed"]), {"max_tokens": 9, "logprobs": True}, [1, 2]
    client = local_client(FullyAsyncLLMServerClient(NANO), "here", server.generate)
    output = ask(client, params, prompt)
    assert server.asked == [([1, 2], 9, True), ([1, 2, 7, 8], 7, True), ([1, 2, 7, 8, 7, 8], 5, True)]
    assert (output.token_ids, output.log_probs) == ([7, 8] * 3, [-1.0, -2.0] * 3)
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (1, 3)
    assert (params, prompt, len(slept)) == ({"max_tokens": 9, "logprobs": True}, [1, 2], 2)


async def _noted(notes, value):
    notes.append(value)


def test_a_plain_client_hands_an_aborted_turn_back():
    server = Server(["aborted"])
    output = ask(local_client(LLMServerClient(NANO), "here", server.generate), {"max_tokens": 9, "logprobs": True}, [1])
    assert (output.stop_reason, len(server.asked)) == ("aborted", 1)


def test_the_trainers_own_client_is_not_changed():
    client = LLMServerClient(NANO, load_balancer_handle="balancer")
    local = local_client(client, "here", Server([]).generate)
    assert (type(client), client._load_balancer) == (LLMServerClient, "balancer")
    assert isinstance(local, LLMServerClient)


def remote(call):
    return SimpleNamespace(remote=call)


class Handle:
    """A Ray handle of a server that plays."""

    def __init__(self):
        self.started, self.batches, self.ended = [], [], threading.Event()
        self.start_agent_loops = remote(lambda *given: _noted(self.started, given))
        self.generate_sequences = remote(self.batches.append)
        self.serve = remote(lambda: self)


@pytest.fixture(autouse=True)
def _servers_that_never_end(monkeypatch):
    monkeypatch.setattr(loss_watch, "ray", SimpleNamespace(wait=lambda *_, **__: threading.Event().wait()))


def manager(handles, on_loss=print):
    return BesideServers.create(config=NANO, llm_client=None, servers=handles, watch=LossWatch(on_loss, 60.0))


def test_each_server_gets_its_address_and_an_equal_part_of_the_batch(monkeypatch):
    handles = {"a": Handle(), "b": Handle()}
    made = manager(handles)
    assert [handle.started[0][0] for handle in handles.values()] == ["a", "b"]
    monkeypatch.setattr("verl.trainer.ppo.v1.agent_loop_tq.ray.get", lambda refs: refs)
    made.generate_sequences(TensorDict({"index": torch.arange(6)}, batch_size=6))
    assert [handle.batches[0]["index"].tolist() for handle in handles.values()] == [[0, 1, 2], [3, 4, 5]]


def test_a_server_that_cannot_play_is_refused():
    with pytest.raises(ValueError, match=r"^hardware.agent_loops: got 'beside_server', but .* at a plays no episodes"):
        manager({"a": SimpleNamespace()})


@pytest.mark.parametrize(("close_first", "told"), [(False, 1), (True, 0)])
def test_a_server_that_ends_is_told_unless_the_run_is_over(monkeypatch, close_first, told):
    losses, handles, waited = [], {"a": Handle(), "b": Handle()}, threading.Event()

    def wait(calls, num_returns, timeout):
        handles["b"].ended.wait(5)
        return [handles["b"]], []

    def get(_):
        try:
            raise RayActorError
        finally:
            waited.set()

    monkeypatch.setattr(loss_watch, "ray", SimpleNamespace(wait=wait, get=get))
    made = manager(handles, on_loss=losses.append)
    if close_first:
        made.close()
    handles["b"].ended.set()
    assert waited.wait(5)
    made.watch.thread.join(5)
    assert len(losses) == told
    assert all("rollout server at b has ended" in loss for loss in losses)


def test_a_server_plays_as_many_episodes_as_its_engine_has_sequences():
    sections = "actor_rollout_ref__rollout__max_num_seqs", "trainer__n_gpus_per_node"
    four = changed(NANO, **dict(zip(sections, (6, 4), strict=True)))
    assert (places_per_worker(NANO), places_per_worker(four)) == (128, 6)
    # 4 replicas for the one worker of the preset
    assert places_per_worker(changed(four, hardware__agent_loops="workers")) == 24
    OmegaConf.set_struct(four, False)
    del four["hardware"]
    assert places_per_worker(four) == 24


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"actor_rollout_ref__rollout__name": "sglang"}, "rollout.name=sglang play no episodes"),
        ({"actor_rollout_ref__rollout__name": "trtllm"}, "rollout.name=trtllm play no episodes"),
        ({"actor_rollout_ref__rollout__disaggregation__enabled": True}, "several servers share a turn"),
    ],
)
def test_what_cannot_play_is_refused_before_ray(change, words):
    config = changed(NANO, **change)
    with pytest.raises(ValueError, match=rf"^hardware.agent_loops: got 'beside_server', .*{words}; allowed: workers"):
        agent_loops(config)
    agent_loops(changed(config, hardware__agent_loops="workers"))
    agent_loops(NANO)


def test_more_threads_than_cores_are_refused_and_the_platform_hands_the_number_on(monkeypatch):
    from trm_agent.verl_plugin.cpu.platform import PlatformCPU

    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    preflight_verl.threads(changed(NANO, hardware__engine_threads=3))
    with pytest.raises(ValueError, match=r"^hardware.engine_threads: got 2, which an engine on a GPU does not read"):
        preflight_verl.threads(changed(NANO, hardware__engine_threads=2, hardware__kind="gpu"))
    with pytest.raises(ValueError, match=r"^hardware.engine_threads: got 4, .*; allowed: at most 3, the cores"):
        preflight_verl.threads(changed(NANO, hardware__engine_threads=4))
    monkeypatch.setenv(ENGINE_THREADS, "3")
    assert PlatformCPU().rollout_env_vars()["OMP_NUM_THREADS"] == "3"
    # a server waits for all imports of the fork server
    assert NEEDS_ALL in PlatformCPU().rollout_env_vars()
    # a script of verl's own
    monkeypatch.delenv(ENGINE_THREADS)
    assert PlatformCPU().rollout_env_vars()["OMP_NUM_THREADS"] == "1"


def test_a_manager_of_servers_starts_no_balancer(monkeypatch):
    monkeypatch.setattr(ray, "remote", lambda *_, **__: pytest.fail("an actor started"))
    manager = LLMServerManager.__new__(LLMServerManager)
    manager.server_addresses, manager.server_handles, manager.rollout_config = ["a"], ["handle"], SimpleNamespace()
    manager.config, manager._load_balancer_cls = NANO, None
    original = LLMServerManager._init_global_load_balancer
    with pytest.raises(BaseException, match="an actor started"):
        asyncio.run(original(manager))
    monkeypatch.setattr(LLMServerManager, "_init_global_load_balancer", original)
    without_balancer()
    asyncio.run(manager._init_global_load_balancer())
    client = local_client(manager.get_client(), "here", Server([]).generate)
    assert client._load_balancer is None
    assert asyncio.run(client._acquire_server("request"))[0] == "here"
