"""What a local Ray of ours leaves out, and that Ray is as before afterwards."""

import contextlib

import pytest
from ray._private import node, services

from trm_agent.fork_server.ray_processes import without_cluster_services


def test_a_local_ray_starts_no_autoscaler_and_a_dashboard_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(services, "start_api_server", lambda *args, **kwargs: ("http://127.0.0.1:8265", args, kwargs))
    with without_cluster_services():
        assert node.Node.start_monitor(None) is None
        # as Ray's own for a server that has not come up: no address, no process
        assert services.start_api_server(False, False, port=1) == ("", None)
        assert services.start_api_server(None, False, port=1) == ("", None)
        assert services.start_api_server(True, False, port=1) == ("http://127.0.0.1:8265", (True, False), {"port": 1})


def test_ray_is_as_before_after_a_failure_too():
    before = node.Node.start_monitor, services.start_api_server
    with contextlib.suppress(RuntimeError), without_cluster_services():
        assert node.Node.start_monitor is not before[0]
        raise RuntimeError
    assert (node.Node.start_monitor, services.start_api_server) == before
