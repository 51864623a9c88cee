"""Rows of rollout files, read one at a time, since a folder of them does not fit into memory."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from trm_agent.runs.data_text import read_json
from trm_agent.trust_region.dump import READABLE, VERSION, check_columns, read_header
from trm_agent.trust_region.dump_size import check_size

REQUIRED = ("response_ids", "response_mask")
_TOPS = ("rollout_top_ids", "rollout_top_log_probs")
_NUMBERS = ("log_probs", "rollout_log_probs", "rollout_versions", *_TOPS, "advantages", "kl_lower", "kl_upper")
_LISTS = ("prompt_ids", *REQUIRED, *_NUMBERS)
_SCALARS = ("step", "update", "reward", "accepted", "rejected_by", "task", "episode")
_BATCH_ROWS = 16
_VERSIONS = (1, *READABLE)


@dataclass(frozen=True)
class Row:
    """One sequence. Arrays have one entry per response token; None where the file has none."""

    file: Path
    number: int
    """Number of the row in its file."""
    settings: Mapping[str, Any]
    """The TrmConfig's fields."""
    step: int
    update: int
    reward: float | None
    accepted: bool | None
    rejected_by: tuple[str, ...]
    """Criteria by which it was rejected; () also where the file does not say."""
    task: str | None
    """Name of its task, the same for a whole group; None where the file does not say."""
    prompt_ids: np.ndarray
    response_ids: np.ndarray
    response_mask: np.ndarray
    """bool: sampled by the model."""
    log_probs: np.ndarray | None
    """Policy in training, nats."""
    rollout_log_probs: np.ndarray | None
    """Policy that sampled, nats."""
    rollout_versions: np.ndarray | None
    """Weight updates before the policy that sampled, -1 on tokens that the model did not sample."""
    rollout_top_ids: np.ndarray | None
    """The tokens that the policy that sampled found most likely, -1 on tokens that the model did not sample."""
    rollout_top_log_probs: np.ndarray | None
    """Their log-probs, nats."""
    advantages: np.ndarray | None
    kl_lower: np.ndarray | None
    kl_upper: np.ndarray | None
    record: dict[str, Any]
    """Record of the episode (turns, seed, stop reason, ...); empty where the file has none."""


def groups_of(file: Path) -> list[tuple[str, str] | None]:
    """Return the step and the task of each sequence; None where the file does not say.

    Raises:
        ValueError: it is not a file of rollouts, or is truncated.
    """
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            _settings(file, opened)
            if "task" not in opened.schema_arrow.names:
                return [None] * opened.metadata.num_rows
            columns = opened.read(["step", "task"]).to_pydict().values()
            return [None if task is None else (str(step), str(task)) for step, task in zip(*columns, strict=True)]
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file.name}: cannot be read as parquet ({_short(error)}); it may be cut off") from error


def keeps_shortest(file: Path) -> bool:
    """Return whether a file's version recorded the shortest sequences of its update, not whole groups of tasks."""
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            read_header(Path(file.name), opened.schema_arrow, (VERSION,))
    except (ValueError, pyarrow.ArrowException, OSError):
        return True
    return False


def read_rows(file: Path, keep: Collection[int] | None = None) -> Iterator[Row]:
    """Return the sequences of a file in order.

    Args:
        file: parquet in the schema of `trm_agent.trust_region.dump`, or of an older release of it.
        keep: the numbers of the rows to return; None for all.

    Raises:
        ValueError: the file is not a file of rollouts, or cut off, or a row's lists do not fit together.
    """
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            settings = _settings(file, opened)
            columns = [name for name in (*_LISTS, *_SCALARS) if name in opened.schema_arrow.names]
            first = 0
            for batch in opened.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                if keep is not None and first > max(keep, default=-1):
                    return
                lists = {name: _Lists(batch[name]) for name in _LISTS if name in columns}
                for index in range(batch.num_rows):
                    if keep is None or first + index in keep:
                        scalars = {name: batch[name][index].as_py() for name in _SCALARS if name in columns}
                        yield _row(file, first + index, settings, scalars, {n: v[index] for n, v in lists.items()})
                first += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file.name}: cannot be read as parquet ({_short(error)}); it may be cut off") from error


class _Lists:
    """A column of lists as numpy arrays, without a Python object per token."""

    def __init__(self, column: pyarrow.Array) -> None:
        self._valid = column.is_valid().to_numpy(zero_copy_only=False)
        self._offsets = column.offsets.to_numpy()
        self._values = column.values.to_numpy(zero_copy_only=False)

    def __getitem__(self, index: int) -> np.ndarray | None:
        return self._values[self._offsets[index] : self._offsets[index + 1]] if self._valid[index] else None


def _row(
    file: Path,
    number: int,
    settings: Mapping[str, Any],
    scalars: Mapping[str, Any],
    lists: Mapping[str, np.ndarray | None],
) -> Row:
    ids, mask = lists["response_ids"], lists["response_mask"]
    if ids is None or mask is None:
        raise ValueError(f"{file.name}: row {number} has no response_ids or no response_mask")
    for name in _LISTS[2:]:
        values = lists.get(name)
        if values is not None and len(values) != len(ids):
            raise ValueError(f"{file.name}: {name} of row {number} has {len(values)} entries for {len(ids)} tokens")
    prompt = lists.get("prompt_ids")
    reward = scalars.get("reward")
    return Row(
        file=file,
        number=number,
        settings=settings,
        step=int(scalars.get("step") or 0),
        update=int(scalars.get("update") or 0),
        reward=None if reward is None or not np.isfinite(reward) else float(reward),
        accepted=scalars.get("accepted"),
        rejected_by=tuple(scalars.get("rejected_by") or ()),
        task=scalars.get("task"),
        prompt_ids=np.zeros(0, np.int32) if prompt is None else prompt,
        response_ids=ids,
        response_mask=mask.astype(bool),
        record=_record(file, number, scalars.get("episode") or "{}"),
        **{name: lists.get(name) for name in _NUMBERS},
    )


def _settings(file: Path, opened: pyarrow.parquet.ParquetFile) -> dict[str, Any]:
    schema = opened.schema_arrow
    check_size(file, (*_LISTS, *_SCALARS))
    settings = read_header(Path(file.name), schema, _VERSIONS)
    check_columns(Path(file.name), schema, REQUIRED)
    return settings


def _record(file: Path, number: int, text: str) -> dict[str, Any]:
    """Read the record of an episode, whose parts the page takes apart."""
    try:
        record = read_json(text)
    except ValueError as error:
        raise ValueError(f"{file.name}: the record of row {number} cannot be read ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"{file.name}: the record of row {number} is a {type(record).__name__}, expected an object")
    parts = {"turns": list, "options": dict, "numbers": dict, "timings": dict}
    for name, kind in parts.items():
        value = record.get(name)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{file.name}: the record of row {number} has {name} of type {type(value).__name__}")
    if not all(isinstance(turn, dict) for turn in record.get("turns") or ()):
        raise ValueError(f"{file.name}: the record of row {number} has turns that are not objects")
    return record


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
