"""A headless Chromium that reports what a page does wrong."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.structure_script import load

_script = load(Path(__file__).parents[2] / "scripts" / "browser.py")
launched = _script.launched
_HAS_BROWSER = importlib.util.find_spec("playwright") is not None and _script.chromium() is not None
# where every setting must be there, its absence fails
NEEDS_BROWSER = pytest.mark.skipif(
    not _HAS_BROWSER and not os.environ.get("TRM_ALL_SETTINGS"),
    reason="no Chromium: pip install playwright, apt-get install chromium",
)


@dataclass
class Opened:
    """A page and what it did."""

    page: Any
    errors: list[str] = field(default_factory=list)
    """Of the console and uncaught ones."""
    requests: list[str] = field(default_factory=list)
    """Of anything but local files; they were blocked."""


@contextmanager
def opened(browser: Any, path: Path | None, scheme: str = "light", width: int = 1400) -> Iterator[Opened]:
    """Open a file, if one is given; everything that is not a local file is blocked and noted."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    found = Opened(page)

    def route(handler: Any) -> None:
        if handler.request.url.startswith("file:"):
            handler.continue_()
        else:
            found.requests.append(handler.request.url)
            handler.abort()

    context.route("**/*", route)
    page.on("console", lambda message: found.errors.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    if path is not None:
        page.goto(path.as_uri())
    yield found
    context.close()


def wait_for(page: Any, title: str) -> None:
    """Until the episode is open and every text in sight is there: tokens are drawn when they come near."""
    page.wait_for_function(
        "title => document.querySelector('.episode-head h2')?.textContent.includes(title)"
        " && [...document.querySelectorAll('.text')].every("
        "text => text.getBoundingClientRect().top > innerHeight || text.textContent)",
        arg=title,
    )


def count(page: Any) -> int:
    """Return how many episodes the list shows."""
    return int(page.inner_text("#count").split(" of ")[0].replace(",", ""))
