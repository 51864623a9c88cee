"""What a local Ray of ours leaves out, and that Ray is as before afterwards."""

import ast
import contextlib
from importlib.util import find_spec
from pathlib import Path

import pytest
from ray._private import node, services, utils

from trm_agent.fork_server import ray_processes
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
    def of_ray():
        return node.Node.start_monitor, services.start_api_server, utils.get_dashboard_dependency_error

    before = of_ray()
    with contextlib.suppress(RuntimeError), without_cluster_services():
        assert node.Node.start_monitor is not before[0]
        raise RuntimeError
    assert of_ray() == before


@pytest.mark.parametrize("absent", ["", "trm_no_such_package", "trm_no_such_package.part"])
def test_the_dashboards_packages_are_looked_for_without_an_import(absent: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(utils, "get_dashboard_dependency_error", lambda: "imported")
    looked_for = [*ray_processes._OF_DASHBOARD, absent]
    monkeypatch.setattr(ray_processes, "_OF_DASHBOARD", looked_for[: None if absent else -1])
    with without_cluster_services():
        assert utils.get_dashboard_dependency_error() == ("imported" if absent else None)


def test_what_is_looked_for_is_what_ray_imports():
    nodes = ast.walk(ast.parse(Path(find_spec("ray.dashboard.optional_deps").origin).read_text(encoding="utf-8")))
    imported = {alias.name for each in nodes if isinstance(each, ast.Import) for alias in each.names}
    tops = {name.partition(".")[0] for name in imported}
    assert tops == {name.partition(".")[0] for name in ray_processes._OF_DASHBOARD}
