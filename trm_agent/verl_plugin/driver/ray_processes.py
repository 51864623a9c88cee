"""Ray's own processes, out of reach of a signal to the command's process group."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAME = "ConsolePopen"
_API_SERVER, _MONITOR = "start_api_server", "start_monitor"


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
def without_cluster_services(dashboard: bool) -> Iterator[None]:
    """Start a local Ray without what only a cluster needs: the autoscaler, and the dashboard's server.

    Ray starts the server without its dashboard too, for usage statistics, and waits until it has.

    Args:
        dashboard: whether the user wants the dashboard.
    """
    from ray._private import node, services

    replaced: list[tuple[Any, str, Any]] = [(node.Node, _MONITOR, lambda _: None)]
    if not dashboard:
        replaced.append((services, _API_SERVER, lambda *_, **__: ("", None)))
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, ours in replaced:
        setattr(owner, name, ours)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
