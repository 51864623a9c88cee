"""The folder of a run: find or make it, guard it against other writers, and resume from it."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from trm_agent.runs.code_version import git_state
from trm_agent.runs.compose import earlier_name, game_of
from trm_agent.runs.data_text import check_files, json_lines
from trm_agent.runs.extendable import how_to_go_on
from trm_agent.runs.memory_knobs import knob_notes, without_knobs
from trm_agent.runs.numbered import make_numbered, numbered, try_lock
from trm_agent.runs.scorer_version import FIELD, other_scorer
from trm_agent.runs.stored_config import (
    CONFIG_FILE,
    GIT_FILE,
    Changes,
    Defaults,
    UnknownVersion,
    absent_fields,
    differing,
    read_config,
    resume_mode,
    shown_changes,
)
from trm_fields import refuse

METRICS_FILE = "metrics.jsonl"
STARTUP_FILE = "startup.jsonl"
SUMMARY_FILE = "summary.json"
LOG_FILE = "log.txt"
CHECKPOINTS = "checkpoints"
RESUMES_FILE = "resumes.jsonl"
_STEP = r"[0-9]{1,15}"
TRACKER = Path(CHECKPOINTS) / "latest_checkpointed_iteration.txt"

State = Literal["new", "resumed", "finished"]


@dataclass
class RunFolder:
    """An occupied and locked run folder."""

    path: Path
    state: State
    """State: `new`, `resumed` (unfinished, same configuration) or `finished` (has its summary)."""
    step: int
    """Step of the last complete checkpoint; 0 without one."""
    _lock: IO[str] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    """Lines for people, such as the fields that an older run lacks, or an older run that was left alone."""
    checkpoint_bytes: int | None = None
    """Bytes of a checkpoint; None if they are not known."""
    changes: Changes = field(default_factory=dict)
    """Fields of a run that is extended, with their old and new values."""
    changed_config: dict[str, Any] = field(default_factory=dict, repr=False)
    """The configuration of a run that is extended, to be written once nothing refuses it."""
    schedule: str = ""
    """The rate schedule of an extension: `stretch` or `restart`."""


def open_run_folder(config: Mapping[str, Any], defaults: Defaults | None = None) -> RunFolder:
    """Find or make the folder of a run and lock it.

    `run.dir` names the folder. Without it, the newest `run.root`/`run.name`-NNN that is unfinished and has the same
    configuration is resumed, also under an earlier version's name; if there is none, the next number is made.

    Args:
        config: the composed configuration, resolved, with `run.dir` as the user gave it.
        defaults: see `config_differences`.

    Raises:
        ValueError: `run.dir` holds a run of another configuration or of an unknown version, files of something else,
            or is in use.
    """
    given = config["run"]["dir"]
    if given is not None:
        return _open_given(Path(given), config, defaults)
    root, name = Path(config["run"]["root"]), str(config["run"]["name"])
    notes: list[str] = []
    for path in _candidates(root, config) if resume_mode(config) != "disable" else ():
        if (path / SUMMARY_FILE).exists() or not (path / CONFIG_FILE).exists():
            continue
        try:
            stored = read_config(path)
            if changes := _changes(stored, config, defaults):
                notes += _other_run(path, stored, changes) if not notes else ()
                continue
            check_scorer(path, stored, config)
        except UnknownVersion as error:
            notes.append(f"{path} is unfinished and not resumed: {error}")
            continue
        if (lock := try_lock(path)) is not None:
            return resumed(path, stored, config, lock)
    path = make_numbered(root, name)
    if resume_mode(config) == "disable":
        notes.append(f"trainer.resume_mode=disable begins a run each time: trm train --extend {path} resumes this one")
    return _start(path, config, tuple(notes))


def _candidates(root: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the folders in which the command's run may stand, the newest first, those under its earlier name last."""
    yield from reversed(numbered(root, str(config["run"]["name"])))
    if earlier := earlier_name(config):
        yield from (path for path in reversed(numbered(root, earlier)) if _plays(path, game_of(config["env"])))


def _plays(path: Path, game: str) -> bool:
    """Return True if a folder holds a run of an environment."""
    try:
        return game_of(read_config(path).get("env") or {}) == game
    except (OSError, UnknownVersion):
        return False


def _open_given(path: Path, config: Mapping[str, Any], defaults: Defaults | None) -> RunFolder:
    if path.exists() and not path.is_dir():
        _refuse(path, "a file", "a folder", "leave it out")
    if not path.exists() or not any(path.iterdir()):
        path.mkdir(parents=True, exist_ok=True)
        return _start(path, config)
    if not (path / CONFIG_FILE).exists():
        _refuse(path, f"which holds files but no {CONFIG_FILE}", "an empty folder, or a run of ours", "leave it out")
    check_files(path)
    if resume_mode(config) == "disable":
        because = "with which no run is resumed, while run.dir holds one"
        refuse(
            "trainer.resume_mode",
            "disable",
            "auto",
            f"leave it out, or give another run.dir than {path}",
            because=because,
        )
    try:
        stored = read_config(path)
        check_scorer(path, stored, config)
    except UnknownVersion as error:
        raise ValueError(f"run.dir={path}: {error}; nothing was written") from error
    if changes := _changes(stored, config, defaults):
        shown = shown_changes(changes)
        because = f"which holds a run of another configuration ({shown})"
        _refuse(path, because, "a run of the same configuration", "repeat the command of that run to resume it")
    lock = try_lock(path)
    if lock is None:
        _refuse(path, "in which another process is training", "a folder of one process", "wait for it")
    return resumed(path, stored, config, lock)


def _refuse(path: Path, because: str, allowed: str, remedy: str) -> NoReturn:
    refuse("run.dir", str(path), allowed, f"{remedy}, or give another run.dir; nothing was written", because=because)


def check_scorer(path: Path, stored: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse a run whose rewards come from another scorer; one from before versions were stored only gets a warning."""
    scorer = _last_scorer(path, stored)
    if FIELD in config and scorer is not None and (other := other_scorer(scorer)):
        raise UnknownVersion(
            f"its rewards are of {other}; rewards of two scorers make no curve: give another run.dir, or go on with "
            f"the version of trm-agent that began the run ({GIT_FILE})"
        )


def _changes(stored: Mapping[str, Any], config: Mapping[str, Any], defaults: Defaults | None) -> Changes:
    old, new = ({name: value for name, value in each.items() if name != FIELD} for each in (stored, config))
    return without_knobs(differing(old, new, defaults))


def _other_run(path: Path, stored: Mapping[str, Any], changes: Changes) -> list[str]:
    """Say that a run is unfinished and not the command's; nothing if a process is working on it."""
    lock = try_lock(path)
    if lock is None:
        return []
    lock.close()
    steps = stored.get("trainer", {}).get("total_training_steps")
    try:
        where = f"{path} is unfinished at step {checkpoint_step(path)} of {steps}"
    except ValueError as error:
        where = f"{path} is unfinished and damaged ({error})"
    return [f"{where} and differs in {shown_changes(changes)}; {how_to_go_on(changes)}"]


def resumed(path: Path, stored: Mapping[str, Any], config: Mapping[str, Any], lock: IO[str]) -> RunFolder:
    state: State = "finished" if (path / SUMMARY_FILE).exists() else "resumed"
    step, notes = checkpoint_step(path), knob_notes(stored, config)
    absent = absent_fields(stored, config)
    if FIELD in absent and _last_scorer(path, stored) is None:
        notes.append(
            f"warning: rewards up to step {step} are of a scorer whose version was not stored, those from here on of "
            f"version {config[FIELD]}: the curve may have a step there"
        )
    if fields := [field for field in absent if field != FIELD]:
        shown = ", ".join(fields[:3]) + (f", and {len(fields) - 3} more" if len(fields) > 3 else "")
        notes.append(f"its {CONFIG_FILE} is of an older version; absent fields count as their defaults: {shown}")
    if later := [str(each) for each in saved_steps(path) if each > step]:
        notes.append(f"does the steps after {step} again; a checkpoint of theirs is set aside: {', '.join(later)}")
    return RunFolder(path, state, step, lock, tuple(notes) if state == "resumed" else ())


def _last_scorer(path: Path, stored: Mapping[str, Any]) -> str | None:
    """Return the version of the scorer that gave a run's last rewards; None if none was stored."""
    rows = _lines(path / RESUMES_FILE)
    return rows[-1].get(FIELD) if rows else stored.get(FIELD)


def record_resume(folder: RunFolder, scorer_version: str) -> None:
    """Record the version that resumes a run, the step that it resumes after, and the fields that are extended."""
    row = {"after_step": folder.step, "time": time.time(), FIELD: scorer_version, **git_state()}
    if folder.changes:
        row |= {"fields": {name: list(values) for name, values in folder.changes.items()}, "schedule": folder.schedule}
    with (folder.path / RESUMES_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _start(path: Path, config: Mapping[str, Any], notes: tuple[str, ...] = ()) -> RunFolder:
    lock = try_lock(path)
    if lock is None:
        _refuse(path, "in which another process is training", "a folder of one process", "wait for it")
    stored = {**config, "run": {**config["run"], "dir": str(path)}}
    import yaml  # the command's help needs this module, but not yaml

    write_atomically(path / CONFIG_FILE, yaml.safe_dump(stored, sort_keys=False))
    write_atomically(path / GIT_FILE, json.dumps(git_state(), indent=2))
    return RunFolder(path, "new", 0, lock, notes)


def discard(folder: RunFolder) -> None:
    """Remove a new folder whose run was refused before it began."""
    if folder.state == "new":
        shutil.rmtree(folder.path)


def checkpoint_step(path: Path) -> int:
    """Return the step of the last complete checkpoint whose metrics were written too; 0 without one.

    verl writes a checkpoint before the step's metrics; a kill in between must not lose the row.
    """
    newest, logged = last_saved(path), {row["step"] for row in read_metrics(path)}
    return max((step for step in saved_steps(path) if step <= newest and step in logged), default=0)


def last_saved(path: Path) -> int:
    """Return the step of the checkpoint that verl was the last to finish; 0 without one."""
    tracker = path / TRACKER
    text = tracker.read_text(encoding="utf-8", errors="replace").strip() if tracker.exists() else "0"
    if not text:  # verl writes it in place, after all else of the newest checkpoint: a kill came in between
        return max(saved_steps(path), default=0)
    if not re.fullmatch(_STEP, text):
        raise ValueError(f"{tracker}: {text[:80]!r}: expected the step of the last checkpoint; write it there by hand")
    return int(text)


def saved_steps(path: Path) -> list[int]:
    """Return the steps of a run's checkpoints, complete or not, in order; a folder without its actor is a leftover."""
    folders = [actor.parent for actor in path.glob(f"{CHECKPOINTS}/global_step_*/actor")]
    names = [folder.name.removeprefix("global_step_") for folder in folders]
    return sorted(int(name) for name in names if re.fullmatch(_STEP, name))


def checkpoint_folder(path: Path, step: int) -> Path:
    """Return the folder in which verl keeps the checkpoint of a step."""
    return path / CHECKPOINTS / f"global_step_{step}"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the rows of `metrics.jsonl`, in order; a last line that was cut by a kill is left out.

    Raises:
        ValueError: a line cannot be read, or has no step; the message names it.
    """
    return _lines(path / METRICS_FILE, "step")


def _lines(file: Path, number_field: str | None = None) -> list[dict[str, Any]]:
    rows = []
    for number, row, reason in json_lines(file) if file.exists() else ():
        if number_field is not None and not reason and not isinstance(row.get(number_field), int | float):
            reason = f"{number_field} = {str(row.get(number_field))[:80]!r}, expected a number"
        if reason:
            raise ValueError(f"{file}, line {number}: {reason}; look at the line, and take it out if it is damaged")
        rows.append(row)
    return rows


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader or a crash sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
