"""Find and start the headless Chromium of the scripts that take pictures and of the tests of the report's page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trm_agent.doctor.software import BROWSERS

REMEDY = "apt-get install chromium, or playwright install chromium"


def chromium() -> str | None:
    """Return the browser's program; None if there is none on PATH."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def launched(*arguments: str) -> Iterator[Any]:
    """Start the browser, one at a time in a process, and end it.

    Raises:
        RuntimeError: playwright or a browser is missing; the message names the remedy.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise RuntimeError("playwright is not installed; pip install playwright") from error
    with sync_playwright() as playwright:
        program = chromium()
        if program is None and not Path(playwright.chromium.executable_path).exists():
            raise RuntimeError(f"no browser: none of {', '.join(BROWSERS)} is on PATH; {REMEDY}")
        try:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", *arguments])
        except Error as error:
            raise RuntimeError(f"the browser {program} does not start: {error.message.splitlines()[0]}") from error
        try:
            yield browser
        finally:
            browser.close()
