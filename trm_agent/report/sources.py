"""The sources of a report: folders of runs and of evaluations, finished or still being written."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trm_agent.evaluate.results import is_finite
from trm_agent.report.vocabulary import find_tokenizer
from trm_agent.runs.data_text import check_files, json_lines, read_json, read_yaml
from trm_agent.runs.folder import CHECKPOINTS, CONFIG_FILE, METRICS_FILE, SUMMARY_FILE
from trm_agent.runs.sessions import SESSIONS_FILE
from trm_agent.runs.validations import VALIDATIONS_FILE

ROLLOUTS, EPISODES, RESULTS_FILE = "rollouts", "episodes", "results.jsonl"
STARTUP_FILE = "startup.jsonl"
MOST_TRIALS = 1e12
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
    startup: list[dict[str, Any]] = field(default_factory=list)
    """Rows of a run's startup.jsonl: `phase`, `time`."""
    validations: list[dict[str, Any]] = field(default_factory=list)
    """Rows of a run's validations.jsonl: `step`, `endings`."""
    sessions: list[dict[str, Any]] = field(default_factory=list)
    """Rows of a run's sessions.jsonl: `started`, `ended`."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """Results of an evaluation: the last row of each episode."""
    episode_files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Notes on files that could not be read."""

    @property
    def finished(self) -> bool:
        """Return whether the folder is final."""
        return self.summary is not None

    @property
    def success(self) -> str:
        """Return the name of the rate that validations measure, as the table at a run's end has it.

        An unfinished run, and one of an older version, do not tell whether their tasks are held out.
        """
        held_out = (self.summary or {}).get("held_out")
        if held_out is True:
            return "held-out success"
        return "success (not held out)" if held_out is False else "success"

    @property
    def trained_horizons(self) -> Any:
        """Return the horizons that are trained on: of the summary, or before there is one, of the configuration."""
        return _at(self.config, "env.train.horizons") if self.summary is None else self.summary.get("trained_horizons")

    def num_tasks(self, num_episodes: Any) -> float | None:
        """Return the number of tasks behind a validation's episodes; None if the number makes no sense.

        Episodes of one task count as one observation, since they share its difficulty.
        """
        samples = _at(self.config, "actor_rollout_ref.rollout.val_kwargs.n")
        each = samples if isinstance(samples, int) and samples >= 1 else 1
        return num_episodes / each if is_finite(num_episodes) and each <= num_episodes <= MOST_TRIALS else None

    def tokenizer_folders(self) -> list[Path]:
        """Return the folders that may hold the source's tokenizer, best first."""
        folders = _saved_by_checkpoints(self.path)
        model = _at(self.config, "actor_rollout_ref.model")
        named = [model.get("tokenizer_path"), model.get("path")] if isinstance(model, dict) else []
        listed = self.config.get("checkpoints")
        for checkpoint in listed if isinstance(listed, list) else []:
            if isinstance(checkpoint, dict):
                for name in ("tokenizer", "model", "path", "source"):
                    value = str(checkpoint.get(name) or "").removeprefix("start:")
                    named += [value, f"{value}/huggingface", f"{value}/actor/huggingface"] if value else []
                    run = _folder(value) if value else None
                    folders += _saved_by_checkpoints(run) if run is not None else []
        return folders + [found for name in named if name and (found := _folder(str(name))) is not None]

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
    check_files(path)
    notes: list[str] = []
    config = _config(path, notes)
    evaluation = config.get("format") == EVALUATION_FORMAT or (path / RESULTS_FILE).exists()
    source = Source(path, label, "evaluation" if evaluation else "run", config, notes=notes)
    stored = config.get("git")
    source.git = _json_file(path / "git.json", notes) or (stored if isinstance(stored, dict) else {})
    source.summary = _json_file(path / SUMMARY_FILE, notes)
    if evaluation:
        source.results = _results(path / RESULTS_FILE, notes)
    else:
        source.metrics = _metrics(path, notes)
        source.startup = _rows(path / STARTUP_FILE, notes)
        source.validations = _rows(path / VALIDATIONS_FILE, notes)
        source.sessions = _rows(path / SESSIONS_FILE, notes)
        if not source.metrics:
            notes.append("no step is recorded: the run has not come to its first, or ended before it")
    source.episode_files = sorted((path / (EPISODES if evaluation else ROLLOUTS)).glob("*.parquet"))
    return source


def _folder(name: str) -> Path | None:
    """Return the folder of that name; None for a text that names none."""
    try:
        path = Path(name).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):
        return None


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
        config = read_yaml((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"{CONFIG_FILE} cannot be read: {_short(error)}")
        return {}
    return config if isinstance(config, dict) else {}


def _json_file(path: Path, notes: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        value = read_json(path.read_bytes())
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {_short(error)}")
        return None
    return value if isinstance(value, dict) else None


def _metrics(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    rows = _rows(path / METRICS_FILE, notes)
    return sorted((row for row in rows if is_finite(row.get("step"))), key=lambda row: row["step"])


def _results(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Read the rows; a later one of an episode replaces an earlier one."""
    rows: dict[Any, dict[str, Any]] = {}
    nameless = 0
    for row in _rows(path, notes):
        names = tuple(row.get(name) for name in ("checkpoint", "env", "task", "sample"))
        if any(name is None or isinstance(name, (dict, list)) for name in names):
            nameless += 1
        else:
            rows[names] = row
    if nameless:
        notes.append(f"{path.name}: {nameless} lines are of no episode and are left out")
    return list(rows.values())


def _rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Read the lines that can be read; a truncated line at the end is left out."""
    if not path.exists():
        return []
    found, bad = [], []
    for number, row, reason in json_lines(path):
        if reason:
            bad.append((number, reason))
        else:
            found.append(row)
    if bad:
        number, reason = bad[0]
        told = f"line {number} cannot be read ({reason[:120]})"
        more = f", nor can {len(bad) - 1} others" if len(bad) > 1 else ""
        notes.append(f"{path.name}: {told}{more}; left out")
    return found


def _at(config: Any, field_path: str) -> Any:
    for name in field_path.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
