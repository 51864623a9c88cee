"""Verdicts on whether the truths of a file can be scored, computed once and kept on disk by the file's hash.

The folder is `rows/` in $TRM_AGENT_CACHE, else in $XDG_CACHE_HOME/trm-agent, else in ~/.cache/trm-agent. A verdict
holds for one content of the file, one scorer (its version and its source), and one version of math-verify and sympy.
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trm_envs import scoring
from trm_envs.rows.files import hash_of_file
from trm_envs.scoring import SCORER_VERSION, Verdict, check_truths, score_math

CACHE_VARIABLE = "TRM_AGENT_CACHE"
CHUNK = 500
SAY_EVERY_S = 5.0
FORMAT = 1
# reasons from a busy or incomplete machine say nothing about the truth, so it is checked again
_PASSING = re.compile(r"\bworker|no reply|time limit|timed out|deadline|is missing|pip install")
_log = logging.getLogger(__name__)


class FileVerdicts:
    """The verdicts on one file's truths.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = _cache_file(path)
        self._truths: dict[str, str] = {}
        self._same: dict[str, bool] = {}
        self._is_changed = False
        self._read()

    def reasons(self, truths: Sequence[str]) -> dict[str, str]:
        """Return the reason for each distinct truth that cannot be scored."""
        unique = list(dict.fromkeys(truths))
        if any(truth not in self._truths for truth in unique):
            with self._locked():
                self._read()
                self._check([truth for truth in unique if truth not in self._truths])
                self._write()
        return {truth: self._truths[truth] for truth in unique if self._truths[truth]}

    def are_equal(self, first: str, second: str) -> bool:
        """Return whether two truths have the same value, however they are written."""
        key = json.dumps([first, second])
        if key not in self._same:
            pairs = ((first, second), (second, first))
            verdicts = [score_math(answer, truth, bare=True).verdict for answer, truth in pairs]
            self._same[key] = all(verdict is Verdict.CORRECT for verdict in verdicts)
            self._is_changed = True
        return self._same[key]

    def save(self) -> None:
        """Store the verdicts found since the last call."""
        if self._is_changed:
            self._write()

    def _check(self, truths: Sequence[str]) -> None:
        last_said = time.monotonic()
        for start in range(0, len(truths), CHUNK):
            part = truths[start : start + CHUNK]
            self._truths |= dict(zip(part, check_truths(part), strict=True))
            if time.monotonic() - last_said >= SAY_EVERY_S:
                last_said = time.monotonic()
                done = min(start + CHUNK, len(truths))
                print(f"{self._path}: {done} of {len(truths)} answers checked", file=sys.stderr, flush=True)

    def _read(self) -> None:
        """Read the verdicts on disk; damaged ones are dropped."""
        if self._file is None:
            return
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            truths, same = content["truths"], content["same"]
            if content["digest"] != _digest(truths, same):
                raise ValueError("the digest is another")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return
        self._truths, self._same = truths | self._truths, same | self._same

    def _write(self) -> None:
        self._is_changed = False
        if self._file is None:
            return
        truths = {truth: why for truth, why in self._truths.items() if not _PASSING.search(why)}
        content = {"format": FORMAT, "digest": _digest(truths, self._same), "truths": truths, "same": self._same}
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content), encoding="utf-8")
            temporary.replace(self._file)
        except OSError as error:
            _log.warning(
                "%s: the checks of %s cannot be kept (%s) and will be made again; set %s to a folder that can be "
                "written to",
                self._file.parent,
                self._path,
                error,
                CACHE_VARIABLE,
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold a lock, so that one process at a time checks a file; without a writable folder there is no lock."""
        with contextlib.ExitStack() as stack:
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.parent.mkdir(parents=True, exist_ok=True)
                    lock = stack.enter_context(self._file.with_suffix(".lock").open("w"))
                    fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _cache_file(path: str) -> Path | None:
    """Return the path of the stored verdicts on a file; None if this user has no cache folder."""
    versions = [FORMAT, SCORER_VERSION, _source_hash(), *(_version(name) for name in ("math-verify", "sympy"))]
    name = f"{hash_of_file(path)[:32]}-{hashlib.sha256(json.dumps(versions).encode()).hexdigest()[:8]}.json"
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given) / "rows" / name
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base) / "trm-agent" / "rows" / name


@functools.cache
def _source_hash() -> str:
    digest = hashlib.sha256()
    for source in sorted(Path(scoring.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _digest(truths: Any, same: Any) -> str:
    return hashlib.sha256(json.dumps([truths, same], sort_keys=True).encode()).hexdigest()
