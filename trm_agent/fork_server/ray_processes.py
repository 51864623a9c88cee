"""Ray's own processes, out of reach of a signal to the command's process group."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

_NAME = "ConsolePopen"
_API_SERVER, _MONITOR, _LACKS = "start_api_server", "start_monitor", "get_dashboard_dependency_error"
# what `ray.dashboard.optional_deps` imports
_OF_DASHBOARD = (
    "aiohttp",
    "aiohttp_cors",
    "grpc",
    "opencensus",
    "opentelemetry.exporter.prometheus",
    "opentelemetry.proto",
    "prometheus_client",
    "pydantic",
)


@contextmanager
def in_their_own_session() -> Iterator[None]:
    """Start each process of a local Ray in a session of its own.

    A scheduler, a terminal or `timeout` signals the whole group of the command. Ray's daemons would end at once, and
    with them the step that the command wants to finish. They still end when the command does.
    """
    from ray._private import services

    original: Any = getattr(services, _NAME, None)
    if original is None:
        yield
        return

    class Detached(original):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, start_new_session=True, **kwargs)

    # by name: for a type checker a class is no variable
    setattr(services, _NAME, Detached)
    try:
        yield
    finally:
        setattr(services, _NAME, original)


@contextmanager
def without_cluster_services() -> Iterator[None]:
    """Start a local Ray without what only a cluster needs: the autoscaler, and the dashboard's server.

    Ray starts the server also where no dashboard is wanted, for usage statistics, and waits until it has. Whether its
    packages are there Ray sees by importing them, in this process: here they are looked for.
    """
    from ray._private import node, services, utils

    monitor, server, lacks = getattr(node.Node, _MONITOR), getattr(services, _API_SERVER), getattr(utils, _LACKS)

    def if_wanted(include_dashboard: bool | None, *args: Any, **kwargs: Any) -> Any:
        return server(include_dashboard, *args, **kwargs) if include_dashboard else ("", None)

    setattr(node.Node, _MONITOR, lambda _: None)
    setattr(services, _API_SERVER, if_wanted)
    setattr(utils, _LACKS, lambda: None if all(map(_is_here, _OF_DASHBOARD)) else lacks())
    try:
        yield
    finally:
        setattr(node.Node, _MONITOR, monitor)
        setattr(services, _API_SERVER, server)
        setattr(utils, _LACKS, lacks)


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of what it is in
        return False
