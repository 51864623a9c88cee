"""Settings of the whole suite; libyaml, where it was built, reads yaml in half the time and with the same result."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator

import pytest

with contextlib.suppress(ImportError):
    import yaml

    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked `long` unless `-m` names the mark.

    Of the others put those first that may take the longest, so that no process is left alone with one at the end.
    """
    if "long" not in re.findall(r"\w+", config.getoption("markexpr")):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    items.sort(key=_longest, reverse=True)


def _longest(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker and marker.args and item.get_closest_marker("slow") else 0.0


@pytest.fixture(autouse=True)
def _warnings_of_ours_are_told(request: pytest.FixtureRequest) -> Iterator[None]:
    """Name a test that leaves our logger mute, and let those after it hear it again: they look for its warnings."""
    yield
    logger = logging.getLogger("trm_agent")
    if logger.isEnabledFor(logging.WARNING) and logger.propagate and not logging.root.disabled:
        return
    state = f"{logger.disabled=}, {logger.level=}, {logger.propagate=}, {logging.root.level=}"
    warnings.warn(f"{request.node.nodeid} leaves the logger trm_agent mute: {state}", stacklevel=1)
    logger.disabled, logger.propagate, logging.root.disabled = False, True, False
    logging.disable(logging.NOTSET)
    logger.setLevel(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)
