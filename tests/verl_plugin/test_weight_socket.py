"""Two runs on a machine, each with a Ray cluster of its own, never share the socket of their weights."""

import importlib.util
import os
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from trm_agent.runs.leftovers import remove_stale_sockets
from trm_agent.verl_plugin.rollout import weight_socket

VERLS = "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-1.sock"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch):
    """Sets the address of the cluster's head."""

    def at(address: str) -> None:
        fake = SimpleNamespace(get_job_id=lambda: "01000000", gcs_address=address)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: fake)

    return at


def test_clusters_of_one_machine_have_sockets_of_their_own(cluster) -> None:
    handles = set()
    for address in ("192.0.2.2:6379", "192.0.2.2:51234", "[2001:db8::1]:51234"):
        cluster(address)
        handles.add(weight_socket.own_handle(VERLS))
    assert len(handles) == 3
    assert all(handle.startswith("ipc:///tmp/rl-colocate-zmq-01000000-") for handle in handles)
    assert all(handle.endswith("-replica-0-rank-1.sock") and handle.count("/") == 4 for handle in handles)
    # the kernel's bound on the name of a socket
    assert all(len(handle) < 107 for handle in handles)


def test_the_engine_is_told_the_name_that_the_trainer_binds(cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster("192.0.2.2:51234")
    monkeypatch.setenv(weight_socket.JOB_VARIABLE, "01000000")
    weight_socket.tell_engine()
    told = os.environ[weight_socket.JOB_VARIABLE]
    assert VERLS.replace("01000000", told) == weight_socket.own_handle(VERLS) != VERLS


def test_verl_names_the_socket_after_the_job_on_both_sides() -> None:
    folder = Path(importlib.util.find_spec("verl").origin).parent / "workers/rollout/vllm_rollout"
    begin = "ipc:///tmp/rl-colocate-zmq-{job_id}-replica-{"
    for name, source in (("vllm_rollout.py", ".get_job_id()"), ("utils.py", f'"{weight_socket.JOB_VARIABLE}"')):
        text = (folder / name).read_text(encoding="utf-8")
        assert begin in text
        assert source in text


def test_another_name_of_verls_is_refused(cluster) -> None:
    cluster("192.0.2.2:51234")
    with pytest.raises(RuntimeError, match="lacks Ray's job"):
        weight_socket.own_handle("ipc:///tmp/weights.sock")


def test_verl_takes_our_sender_with_the_extension() -> None:
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY

    import trm_agent.verl_plugin.extension  # noqa: F401
    from trm_agent.verl_plugin.rollout.weight_socket import __name__ as room

    assert _ROLLOUT_REGISTRY["vllm", "async"] == f"{room.rpartition('.')[0]}.weight_sender.WeightSender"


def test_what_a_killed_run_leaves_is_removed_and_what_lives_stays(cluster) -> None:
    cluster("192.0.2.2:51234")
    verls = VERLS.rpartition("/")[2]
    alive = weight_socket.own_handle(VERLS).rpartition("/")[2]
    dead, no_socket = (alive.replace("rank-1", f"rank-{rank}") for rank in (2, 3))
    with tempfile.TemporaryDirectory(dir="/tmp") as name, socket.socket(socket.AF_UNIX) as living:
        folder = Path(name)
        for left in (dead, verls):
            with socket.socket(socket.AF_UNIX) as killed:
                killed.bind(str(folder / left))
        living.bind(str(folder / alive))
        (folder / no_socket).touch()
        # without the kernel's word nothing is known to be dead
        assert remove_stale_sockets(folder, folder / "none") == []
        before = {path.name for path in folder.iterdir()}
        # a run in another network namespace may have one that is this young
        assert remove_stale_sockets(folder) == []
        for name in before:
            os.utime(folder / name, (0, 0))
        assert remove_stale_sockets(folder) == [dead]
        assert {path.name for path in folder.iterdir()} == before - {dead}
