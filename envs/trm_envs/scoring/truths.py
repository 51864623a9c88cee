"""Check that truths can be scored: each is compared with itself, past the shortcut for identical text."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from trm_envs.scoring.verify import judge_itself

SCORER_VERSION = "4"
"""The version of the scorer, raised with each change that may change a verdict; config.yaml and results hold it."""
MAX_THREADS = 2


def check_truths(truths: Sequence[str], *, deadline_s: float = 5.0) -> list[str]:
    """Return, for each truth, "" if answers can be scored against it, else why not. Never raises for a truth."""
    unique = list(dict.fromkeys(truths))
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads:
        checks = threads.map(lambda truth: judge_itself(truth, deadline_s=deadline_s), unique)
        reasons = dict(zip(unique, checks, strict=True))
    return [reasons[truth] for truth in truths]
