"""The folder of an evaluation: its lock, its results, and the part that a resumed evaluation keeps.

An evaluation that is killed at any moment keeps all finished episodes. Half a line at the end of `results.jsonl` is
moved to `results.jsonl.truncated`; any other line that is not a result is an error, and nothing is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from trm_agent.episode import Episode
from trm_agent.episode.record import episode_record
from trm_agent.evaluate.plan import FORMAT, VERSION, Key, Plan, identity
from trm_agent.evaluate.results import RESULTS_FILE, bad_line, is_failure, read_results, set_aside
from trm_agent.runs.code_version import git_state
from trm_agent.runs.data_text import read_yaml
from trm_agent.runs.folder import (
    CONFIG_FILE,
    SUMMARY_FILE,
    write_atomically,
)
from trm_agent.runs.numbered import LOCK_FILE, make_numbered, numbered, try_lock
from trm_agent.runs.results import sandbox_section
from trm_agent.runs.scorer_version import FIELD, other_scorer
from trm_agent.runs.stored_config import config_differences
from trm_agent.trust_region.settings import DumpConfig

EPISODES = "episodes"


@dataclass
class Store:
    """An occupied and locked evaluation folder."""

    path: Path
    plan: Plan
    is_new: bool
    rows: dict[tuple[str, Key], dict[str, Any]] = field(default_factory=dict)
    """The last result of each episode in the folder."""
    num_cut: int = 0
    """Characters of an unfinished line that were set aside."""
    _lock: IO[str] | None = field(default=None, repr=False)

    def missing(self, label: str) -> list[Key]:
        """Return a checkpoint's episodes still to be played, in order: those without a result, and failed ones."""
        return [key for key in self.plan.episodes() if not self._is_played(label, key)]

    def asked(self) -> list[dict[str, Any]]:
        """Return the results of the planned episodes, checkpoint by checkpoint in the order of tasks."""
        keys = sorted(self.plan.episodes())
        pairs = [(checkpoint.label, key) for checkpoint in self.plan.checkpoints for key in keys]
        return [self.rows[pair] for pair in pairs if pair in self.rows]

    def append(self, row: dict[str, Any]) -> None:
        """Add a result. A later one of the same episode replaces the earlier in memory, and follows it in the file."""
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        file = self.path / RESULTS_FILE
        with file.open("ab", buffering=0) as results:
            start = results.tell()
            if results.write(line) != len(line):
                # on a full disk: no half line may stand before another result
                results.truncate(start)
                raise OSError(f"{file}: the disk is full; make room, and run the same command again")
        self.rows[_address(row)] = row

    def save_episode(self, label: str, key: Key, episode: Episode) -> None:
        """Keep the tokens of an episode in a file of its own under `episodes/`."""
        from trm_agent.trust_region.dump import write_dump

        number = [checkpoint.label for checkpoint in self.plan.checkpoints].index(label)
        name = f"{number:02d}.{_slug(key.env)}.task{key.task:06d}.sample{key.sample:03d}"
        where = {"checkpoint": label, "env": key.env, "task": key.task, "sample": key.sample}
        row = {
            "step": 0,
            "update": 0,
            "reward": episode.reward,
            "prompt_ids": episode.prompt_ids,
            "response_ids": episode.response_ids,
            "response_mask": episode.response_mask,
            "rollout_log_probs": [
                value if sampled else float("nan")
                for value, sampled in zip(episode.rollout_log_probs, episode.response_mask, strict=True)
            ],
            "episode": json.dumps({**episode_record(episode), **where}),
        }
        # no file is ever dropped; the caller bounds their number
        config = DumpConfig(directory=str(self.path / EPISODES), max_files=2**31)
        write_dump(config, [row], {}, name)

    def write_summary(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write `summary.json` and return what it holds: also the means of confinement if programs ran here."""
        whole = {**summary, **sandbox_section()}
        write_atomically(self.path / SUMMARY_FILE, json.dumps(whole, indent=2, allow_nan=False) + "\n")
        return whole

    def forget_summary(self) -> None:
        """Remove a summary that is about to be out of date; it can be made again from the results."""
        (self.path / SUMMARY_FILE).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _is_played(self, label: str, key: Key) -> bool:
        row = self.rows.get((label, key))
        return row is not None and not is_failure(row)


def open_store(plan: Plan, out: Path | None, root: Path, name: str) -> Store:
    """Find or make the folder of an evaluation and lock it.

    `out` names the folder. Without it, the newest `root`/`name`-NNN with the same settings that lacks some of the
    episodes is continued; if there is none, the next number is made.

    Args:
        plan: the plan to be played.
        out: a folder of the user's.
        root: the parent of numbered folders.
        name: the part of the folder's name before its number.

    Raises:
        ValueError: `out` holds another evaluation, files of something else or a result that cannot be read, or another
            process writes into it.
    """
    if out is not None:
        return _open_given(plan, out)
    for path in reversed(numbered(root, name)):
        if not _is_same(path, plan) or (lock := try_lock(path)) is None:
            continue
        store = _continued(plan, path, lock)
        if any(store.missing(checkpoint.label) for checkpoint in plan.checkpoints):
            _write_config(path, plan)
            return store
        store.close()
    return _open_given(plan, make_numbered(root, name))


def _open_given(plan: Plan, path: Path) -> Store:
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out {path}: is a file; give a folder, or leave it out to get one under runs/")
    if path.exists() and not _is_unused(path):
        _check_same(path, plan)
    path.mkdir(parents=True, exist_ok=True)
    lock = try_lock(path)
    if lock is None:
        raise ValueError(f"--out {path}: another process is evaluating in it; wait for it, or give another folder")
    # checked again: another process may have begun here before the lock was ours
    if _is_unused(path):
        write_atomically(path / "git.json", json.dumps(git_state(), indent=2) + "\n")
        store = Store(path, plan, True, _lock=lock)
    else:
        _check_same(path, plan)
        store = _continued(plan, path, lock)
    _write_config(path, plan)
    return store


def _check_same(path: Path, plan: Plan) -> None:
    stored = _stored(path)
    if stored is None:
        raise ValueError(
            f"--out {path}: holds files but no evaluation of ours (no {CONFIG_FILE} with format: {FORMAT}); nothing "
            "was written: give an empty or a new folder"
        )
    if other := other_scorer(stored.get(FIELD)):
        raise ValueError(
            f"--out {path}: its results are of {other}; verdicts of two scorers do not go together, and nothing was "
            f"written: give another folder (trm report {path} still shows these)"
        )
    differences = config_differences(identity(stored), identity(plan.config()))
    if differences:
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise ValueError(
            f"--out {path}: holds an evaluation of other settings ({shown}); nothing was written: repeat the command "
            "of that evaluation to continue it, or give another folder"
        )


def _is_same(path: Path, plan: Plan) -> bool:
    stored = _stored(path)
    return stored is not None and not config_differences(identity(stored), identity(plan.config()))


def _stored(path: Path) -> dict[str, Any] | None:
    """Read the configuration of an evaluation folder; None if it is not of this version."""
    file = path / CONFIG_FILE
    try:
        config = read_yaml(file.read_text(encoding="utf-8")) if file.exists() else None
    except ValueError:
        return None
    is_ours = isinstance(config, dict) and (config.get("format"), config.get("version")) == (FORMAT, VERSION)
    return config if is_ours else None


def _continued(plan: Plan, path: Path, lock: IO[str]) -> Store:
    """Open the store of a folder that has the plan's settings."""
    try:
        store = Store(path, plan, False, _lock=lock)
        file = path / RESULTS_FILE
        rows, rest = read_results(file)
        for number, row in enumerate(rows, 1):
            _check_belongs(file, number, row, plan)
            store.rows[_address(row)] = row
        if rest:
            store.num_cut = len(rest)
            set_aside(file, rest)
    except BaseException:
        lock.close()
        raise
    return store


def _check_belongs(file: Path, number: int, row: Mapping[str, Any], plan: Plan) -> None:
    """Refuse a line that does not belong to this evaluation's checkpoints, environments and tasks."""
    labels = [checkpoint.label for checkpoint in plan.checkpoints]
    if row["checkpoint"] not in labels:
        raise bad_line(file, number, f"is of the checkpoint {row['checkpoint']!r}, which is none of {labels}")
    if FIELD in row and (other := other_scorer(row[FIELD])):
        raise bad_line(file, number, f"is of {other}")
    names = [each.name for each in plan.environments]
    if row["env"] not in names:
        raise bad_line(file, number, f"is of the environment {row['env']!r}, which is none of {names}")
    environment = plan.environment(row["env"])
    if environment.rows_hash is not None and row["task"] >= len(environment.row_numbers):
        raise bad_line(
            file, number, f"has task={row['task']}, and the file has {len(environment.row_numbers)} problems"
        )
    seed = environment.task(row["task"]).seed if row["task"] >= 0 else None
    if row["seed"] != seed:
        raise bad_line(file, number, f"has seed={row['seed']}, task {row['task']} of {row['env']} has {seed}")


def _address(row: Mapping[str, Any]) -> tuple[str, Key]:
    return row["checkpoint"], Key(row["env"], row["task"], row["sample"])


def _write_config(path: Path, plan: Plan) -> None:
    write_atomically(path / CONFIG_FILE, yaml.safe_dump(plan.config(), sort_keys=False))


def _is_unused(path: Path) -> bool:
    """Return True if a folder holds only the leftovers of a kill at the very start."""
    left = (LOCK_FILE, "git.json")
    prefixes = (".config.yaml.", ".git.json.")
    return not any(child.name not in left and not child.name.startswith(prefixes) for child in path.iterdir())


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)
