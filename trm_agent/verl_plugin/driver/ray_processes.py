"""Ray's own processes, out of reach of a signal to the command's process group."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAME = "ConsolePopen"


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
