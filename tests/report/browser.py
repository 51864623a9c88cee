"""A headless Chromium that reports what a page does wrong."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The browser's program, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Opened:
    """A page and what it did."""

    page: Any
    errors: list[str] = field(default_factory=list)
    """Of the console and uncaught ones."""
    requests: list[str] = field(default_factory=list)
    """Of anything but local files; they were blocked."""


@contextmanager
def launched(*arguments: str) -> Iterator[Any]:
    """The browser; one at a time in a process."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", *arguments])
        yield browser
        browser.close()


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
