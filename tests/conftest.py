"""Settings of the whole suite: libyaml, where it was built, reads yaml in half the time and with the same result."""

import contextlib

import pytest

with contextlib.suppress(ImportError):
    import yaml

    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that may take the longest first, so that no process is left alone with one at the end."""
    items.sort(key=_longest, reverse=True)


def _longest(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker and marker.args and item.get_closest_marker("slow") else 0.0
