"""The sources of a report: folders of runs and of evaluations, finished or still being written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from trm_agent.report.vocabulary import find_tokenizer
from trm_agent.runs.folder import CHECKPOINTS, CONFIG_FILE, METRICS_FILE, SUMMARY_FILE, read_metrics

ROLLOUTS, EPISODES, RESULTS_FILE = "rollouts", "episodes", "results.jsonl"
EVALUATION_FORMAT = "trm-agent evaluation"


@dataclass
class Source:
    """One folder."""

    path: Path
    label: str
    """Short name, unique in the report."""
    kind: Literal["run", "evaluation"]
    config: dict[str, Any] = field(default_factory=dict)
    git: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] | None = None
    """Contents of summary.json; None before the folder is finished."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """Rows of a run's metrics.jsonl."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """Results of an evaluation: the last row of each episode."""
    episode_files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Notes on files that could not be read."""

    @property
    def finished(self) -> bool:
        """Return whether the folder is final."""
        return self.summary is not None

    def tokenizer_folders(self) -> list[Path]:
        """Return the folders that may hold the source's tokenizer, best first."""
        folders = _saved_by_checkpoints(self.path)
        model = _at(self.config, "actor_rollout_ref.model")
        named = [model.get("tokenizer_path"), model.get("path")] if isinstance(model, dict) else []
        for checkpoint in self.config.get("checkpoints") or []:
            if isinstance(checkpoint, dict):
                for name in ("tokenizer", "model", "path", "source"):
                    value = str(checkpoint.get(name) or "").removeprefix("start:")
                    named += [value, f"{value}/huggingface", f"{value}/actor/huggingface"] if value else []
                    folders += _saved_by_checkpoints(Path(value)) if value else []
        return folders + [Path(str(name)).expanduser() for name in named if name]

    def tokenizer_folder(self) -> Path | None:
        """Return the folder with the source's tokenizer; None if there is none."""
        return find_tokenizer(self.tokenizer_folders())


def open_sources(paths: Sequence[Path]) -> list[Source]:
    """Read the folders, as far as their files exist.

    Args:
        paths: folders of runs or of evaluations, at least one.

    Raises:
        ValueError: a path is neither.
    """
    resolved = [Path(path).resolve() for path in paths]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise ValueError(f"{paths[index]}: given twice; name each run once")
    return [_open(path, given, label) for path, given, label in zip(resolved, paths, _labels(resolved), strict=True)]


def _open(path: Path, given: Path, label: str) -> Source:
    files = (CONFIG_FILE, METRICS_FILE, RESULTS_FILE)
    if not path.is_dir() or not any((path / name).exists() for name in files):
        what = "is not there" if not path.exists() else "is a file" if path.is_file() else f"has no {CONFIG_FILE}"
        raise ValueError(
            f"{given}: {what}; allowed: the folder of a run (config.yaml, metrics.jsonl) or of an evaluation "
            "(config.yaml, results.jsonl), such as runs/math_nano-seed0-001"
        )
    notes: list[str] = []
    config = _config(path, notes)
    evaluation = config.get("format") == EVALUATION_FORMAT or (path / RESULTS_FILE).exists()
    source = Source(path, label, "evaluation" if evaluation else "run", config, notes=notes)
    source.git = _json_file(path / "git.json", notes) or config.get("git") or {}
    source.summary = _json_file(path / SUMMARY_FILE, notes)
    if evaluation:
        source.results = _results(path / RESULTS_FILE, notes)
    else:
        source.metrics = _metrics(path, notes)
    source.episode_files = sorted((path / (EPISODES if evaluation else ROLLOUTS)).glob("*.parquet"))
    return source


def _saved_by_checkpoints(run: Path) -> list[Path]:
    """Return the tokenizers in a run's checkpoints, newest first."""
    found = (run / CHECKPOINTS).glob("*/actor/huggingface")
    return sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return the folders' names, with enough parents to tell them apart."""
    for depth in range(1, 12):
        labels = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(labels)) == len(labels):
            break
    return labels


def _config(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        config = yaml.safe_load((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        notes.append(f"{CONFIG_FILE} cannot be read: {_short(error)}")
        return {}
    return config if isinstance(config, dict) else {}


def _json_file(path: Path, notes: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {_short(error)}")
        return None
    return value if isinstance(value, dict) else None


def _metrics(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    try:
        rows = read_metrics(path)
    except (OSError, ValueError) as error:
        notes.append(f"{METRICS_FILE} cannot be read: {_short(error)}")
        return []
    return sorted((row for row in rows if isinstance(row.get("step"), (int, float))), key=lambda row: row["step"])


def _results(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Read the rows; a later one of an episode replaces an earlier one, a truncated line is left out."""
    if not path.exists():
        return []
    rows: dict[Any, dict[str, Any]] = {}
    bad = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
                rows[row["checkpoint"], row["env"], row["task"], row["sample"]] = row
            except (ValueError, KeyError, TypeError):
                bad += bool(line.strip()) and line.endswith("\n")
    if bad:
        notes.append(f"{path.name}: {bad} lines cannot be read and are left out")
    return list(rows.values())


def _at(config: Any, field_path: str) -> Any:
    for name in field_path.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
