"""What a local Ray of ours leaves out, and that Ray is as before afterwards."""

import contextlib

import pytest
from ray._private import node, services

from trm_agent.verl_plugin.driver.ray_processes import without_cluster_services


@pytest.mark.parametrize("dashboard", [False, True])
def test_a_local_ray_starts_no_autoscaler_and_a_dashboard_only_where_it_is_wanted(dashboard: bool):
    monitor, server = node.Node.start_monitor, services.start_api_server
    with without_cluster_services(dashboard):
        assert node.Node.start_monitor(None) is None
        assert (services.start_api_server is server) is dashboard
        if not dashboard:
            # as Ray's own for a server that has not come up: no address, no process
            assert services.start_api_server(False, raise_on_failure=False) == ("", None)
    assert (node.Node.start_monitor, services.start_api_server) == (monitor, server)


def test_ray_is_as_before_after_a_failure_too():
    before = node.Node.start_monitor, services.start_api_server
    with contextlib.suppress(RuntimeError), without_cluster_services(dashboard=False):
        raise RuntimeError
    assert (node.Node.start_monitor, services.start_api_server) == before
