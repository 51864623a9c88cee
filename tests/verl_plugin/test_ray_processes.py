"""What a local Ray of ours leaves out, and that Ray is as before afterwards."""

import contextlib
import subprocess
import sys

import pytest
from ray._private import node, services, utils
from ray._private.state import GlobalState
from ray.util import serialization_addons

from trm_agent.fork_server import ray_processes
from trm_agent.fork_server.ray_processes import without_cluster_services

RAY = """
import psutil, ray
from trm_agent.fork_server.ray_processes import without_cluster_services
with without_cluster_services():
    ray.init(num_cpus=1, include_dashboard=False)
    print(ray.get(ray.remote(lambda: 7).remote()))
    agents = [each.cmdline() for each in psutil.Process().children(recursive=True)]
    raylets = [line for line in agents if any("dashboard_agent_command" in part for part in line)]
    print("is", *{"minimal" if "--minimal" in " ".join(line) else "whole" for line in raylets})
    ray.shutdown()
"""


def test_a_local_ray_starts_no_autoscaler_and_a_dashboard_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(services, "start_api_server", lambda *args, **kwargs: ("http://127.0.0.1:8265", args, kwargs))
    with without_cluster_services(has_dashboard=False):
        assert node.Node.start_monitor(None) is None
        # as Ray's own for a server that has not come up: no address, no process
        assert services.start_api_server(False, False, port=1) == ("", None)
    with without_cluster_services(has_dashboard=True):
        assert node.Node.start_monitor(None) is None
        assert services.start_api_server(True, False, port=1) == ("http://127.0.0.1:8265", (True, False), {"port": 1})


def test_ray_is_as_before_after_a_failure_too():
    def of_ray():
        changed = utils.get_dashboard_dependency_error, serialization_addons.apply, services.get_node
        return node.Node.start_monitor, services.start_api_server, *changed

    before = of_ray()
    with contextlib.suppress(RuntimeError), without_cluster_services():
        assert not set(of_ray()) & set(before)
        assert serialization_addons.apply(None) is None
        raise RuntimeError
    assert of_ray() == before


def test_without_a_dashboard_its_agent_is_that_of_a_ray_without_its_packages():
    for has_dashboard in (False, True):
        with without_cluster_services(has_dashboard):
            told = utils.get_dashboard_dependency_error()
        assert (told is None) == has_dashboard


def test_a_node_is_looked_for_until_it_is_there_or_the_wait_is_rays_own(monkeypatch: pytest.MonkeyPatch):
    tables = iter([[], [{"NodeID": "other"}], [{"NodeID": "other"}, {"NodeID": "mine"}]])
    monkeypatch.setattr(GlobalState, "_initialize_global_state", lambda *_: None)
    monkeypatch.setattr(services, "_get_gcs_client_options", lambda address: address)
    monkeypatch.setattr(GlobalState, "node_table", lambda _: next(tables))
    asked = []
    get = ray_processes.soon(lambda *given: asked.append(given))
    get("address", "mine")
    assert (asked, list(tables)) == ([("address", "mine")], [])
    monkeypatch.setattr(ray_processes, "_LONGEST_START_S", 0.1)
    monkeypatch.setattr(GlobalState, "node_table", lambda _: [])
    get("address", "mine")
    assert len(asked) == 2


@pytest.mark.slow
def test_a_ray_without_a_dashboard_starts_and_ends():
    done = subprocess.run([sys.executable, "-c", RAY], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["7", "is", "minimal"]
