"""Rewrite the page while a run goes on."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trm_agent.report.build import Report
from trm_agent.report.sources import EPISODES, RESULTS_FILE, ROLLOUTS
from trm_agent.runs.folder import CONFIG_FILE, METRICS_FILE, SUMMARY_FILE

State = tuple[tuple[str, int, int], ...]


def state_of(paths: Sequence[Path]) -> State:
    """Return the names, sizes and times of the page's source files."""
    files = []
    for path in paths:
        files += [path / name for name in (CONFIG_FILE, METRICS_FILE, RESULTS_FILE, SUMMARY_FILE)]
        files += [file for folder in (ROLLOUTS, EPISODES) for file in sorted((path / folder).glob("*.parquet"))]
    state = []
    for file in files:
        try:
            stat = file.stat()
        except FileNotFoundError:  # never written, or dropped among the oldest rollouts
            continue
        state.append((str(file), stat.st_size, stat.st_mtime_ns))
    return tuple(state)


def watch(
    paths: Sequence[Path],
    seconds: float,
    build: Callable[[], Report],
    tell: Callable[[Report], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Build the page, and again after every change, until every folder has its summary.

    Args:
        paths: the folders.
        seconds: between two looks, above 0.
        build: writes the page.
        tell: called with the written page.
        sleep: waits.
    """
    seen: State | None = None
    while True:
        now = state_of(paths)
        if now != seen:
            report = build()
            tell(report)
            # a change while the page was made is seen at the next look
            seen = now
            if report.finished:
                return
        sleep(seconds)
