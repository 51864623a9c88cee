"""Ray's own processes, out of reach of a signal to the command's process group."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_NAME = "ConsolePopen"
# after which the wait for a node is Ray's own, with its own message
_LONGEST_START_S = 5


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
def without_cluster_services(has_dashboard: bool = False) -> Iterator[None]:
    """Start a local Ray without what only a cluster needs, and do not wait for longer than it takes.

    It has no autoscaler, and without a dashboard neither its server, which Ray would start for usage statistics, nor
    the part of its agent that serves it: the agent is that of a Ray whose packages for a dashboard are not installed.
    The process that starts it has no serializers for objects of Arrow, pydantic and starlette, whose packages Ray would
    import: it sends a configuration.

    Args:
        has_dashboard: whether a dashboard is wanted.
    """
    from ray._private import node, services, utils
    from ray.util import serialization_addons

    def no_server(*_: Any, **__: Any) -> Any:
        return "", None

    changes: list[tuple[Any, str, Any]] = [
        (node.Node, "start_monitor", lambda _: None),
        (serialization_addons, "apply", lambda _: None),
        (services, "get_node", soon(services.get_node)),
    ]
    if not has_dashboard:
        changes.append((services, "start_api_server", no_server))
        changes.append((utils, "get_dashboard_dependency_error", lambda: ImportError("no dashboard is wanted")))
    before = [(place, name, getattr(place, name)) for place, name, _ in changes]
    for place, name, value in changes:
        setattr(place, name, value)
    try:
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def soon(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """Return Ray's look for the node that it has started, which looks once a second, for a node that is there."""

    def get(gcs_address: str, node_id: str) -> Any:
        from ray._private.services import _get_gcs_client_options
        from ray._private.state import GlobalState

        state, deadline = GlobalState(), time.monotonic() + _LONGEST_START_S
        state._initialize_global_state(_get_gcs_client_options(gcs_address))
        while time.monotonic() < deadline and all(each["NodeID"] != node_id for each in state.node_table()):
            time.sleep(0.02)
        return get_node(gcs_address, node_id)

    return get
