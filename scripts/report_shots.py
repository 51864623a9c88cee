"""Photograph a report: its first screen and its viewer with a group open, light and dark, wide and narrow.

    trm report runs/math_nano-seed0-001
    python scripts/report_shots.py runs/math_nano-seed0-001/report.html shots

Eight pictures, of which a page that complains or is wider than its window gets none. Look at them after every change of
the page. Needs playwright and a Chromium.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from browser import launched

SCHEMES = ("light", "dark")
WIDTHS = (1400, 500)
HEIGHT = 900
SETTLING_MS = 300
IS_OPEN = (
    "name => document.querySelector('.episode-head h2')?.textContent.endsWith(name)"
    " && [...document.querySelectorAll('.text')].some(text => text.textContent)"
)


def choose(episodes: dict[str, list[Any]]) -> int:
    """Return the number of an episode with much to show: of a group with unlike rewards, rejected if one is.

    Raises:
        ValueError: the report has no episodes.
    """
    if not episodes["id"]:
        raise ValueError(
            "the report has no episodes; train with actor_rollout_ref.actor.policy_loss.dump.every=N and make it again"
        )

    def interest(i: int) -> tuple[bool, bool]:
        return bool(episodes["advantage"][i]), episodes["accepted"][i] is False

    return max(range(len(episodes["id"])), key=interest)


def photograph(browser: Any, report: Path, folder: Path) -> Iterator[Path]:
    """Open the report as readers do, in every scheme and width, and write what their windows show.

    Raises:
        ValueError: the report has no episodes, the page complains, or it is wider than its window.
    """
    page = browser.new_page()
    page.goto(report.as_uri())
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    page.close()
    number = choose(data["episodes"])
    name = data["episodes"]["id"][number]
    run = data["runs"][data["episodes"]["run"][number]]["label"]
    # where a reader is stands in the page's address, and is read when the page opens
    viewer = urlencode({"view": "episodes", "sort": "group", "e": f"{run} {name}"})
    folder.mkdir(parents=True, exist_ok=True)
    for scheme, width in product(SCHEMES, WIDTHS):
        for view, place in (("first", ""), ("viewer", viewer)):
            window = {"width": width, "height": HEIGHT}
            picture = folder / f"{view}-{scheme}-{width}.png"
            context = browser.new_context(viewport=window, color_scheme=scheme)
            page = context.new_page()
            complaints = _complaints_of(page)
            page.goto(f"{report.as_uri()}#{place}")
            if place:
                page.wait_for_function(IS_OPEN, arg=name)
            page.wait_for_timeout(SETTLING_MS)
            wide = page.evaluate("document.documentElement.scrollWidth")
            if complaints or wide > width:
                raise ValueError(f"{picture.name}: {complaints or f'the page is {wide} px wide'}")
            page.screenshot(path=picture)
            context.close()
            yield picture


def _complaints_of(page: Any) -> list[str]:
    """Return a list that fills with the errors of the page."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda said: found.append(said.text) if said.type == "error" else None)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Take the report and the folder, write eight pictures, name each."""
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path, metavar="REPORT.html", help="page of trm report")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the pictures; made if it is not there")
    options = parser.parse_args(arguments)
    if not options.report.is_file():
        parser.error(f"REPORT.html: got {options.report}, allowed: a page of trm report; make it with trm report RUN")
    if options.folder.exists() and not options.folder.is_dir():
        parser.error(f"FOLDER: got {options.folder}, a file, allowed: a folder; give another")
    try:
        with launched() as browser:
            for picture in photograph(browser, options.report.resolve(), options.folder):
                print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
