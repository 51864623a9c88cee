"""Dumps of rollouts: every token with both policies' log-probs, to try other thresholds without a model.

A dump is a folder of parquet files, one per update and rank, with one row per sequence. Lists have one entry per
response token, which is NaN where the model did not sample it.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from trm_agent.trust_region.dump_size import check_padded, check_size
from trm_agent.trust_region.settings import DumpConfig

FORMAT, VERSION = "trm-agent rollouts", 3
# of which the later one has `task` and `rejected_by`
READABLE = (2, VERSION)
DIVERGENCES = ("kl_lower", "kl_upper", "tv_lower", "tv_upper")
_TOKENS = pyarrow.list_(pyarrow.int32())
_NUMBERS = pyarrow.list_(pyarrow.float32())
SCHEMA = pyarrow.schema(
    [
        ("step", pyarrow.int64()),
        ("update", pyarrow.int64()),
        ("reward", pyarrow.float64()),
        ("accepted", pyarrow.bool_()),
        # criteria by which the sequence was rejected
        ("rejected_by", pyarrow.list_(pyarrow.string())),
        # the same for all sequences of one group
        ("task", pyarrow.string()),
        ("prompt_ids", _TOKENS),
        ("response_ids", _TOKENS),
        ("response_mask", pyarrow.list_(pyarrow.bool_())),
        ("log_probs", _NUMBERS),
        ("rollout_log_probs", _NUMBERS),
        # weight updates before the policy that sampled each token, -1 elsewhere; null where all are of one policy
        ("rollout_versions", _TOKENS),
        # what the policy that sampled found most likely, -1 elsewhere, and its log-prob; null unless they were recorded
        ("rollout_top_ids", _TOKENS),
        ("rollout_top_log_probs", _NUMBERS),
        ("advantages", _NUMBERS),
        *((name, _NUMBERS) for name in DIVERGENCES),
        # whole distributions, float32, shape (sampled tokens, vocabulary), row after row; null unless asked for
        ("vocab_size", pyarrow.int64()),
        ("full_log_probs", pyarrow.binary()),
        ("rollout_full_log_probs", pyarrow.binary()),
        # JSON of `episode.episode_record`; null where unknown
        ("episode", pyarrow.string()),
    ]
)


# the columns that `read_dump` takes
_READ = ("step", "reward", "response_mask", "log_probs", "rollout_log_probs", "advantages", *DIVERGENCES)


def write_dump(config: DumpConfig, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], name: str) -> Path:
    """Write one update's rows and drop the oldest files beyond `max_files`.

    Args:
        config: with a directory.
        rows: columns of `SCHEMA`; absent ones become null.
        settings: the TrmConfig's fields.
        name: the file's name without ending; files are dropped in the order of their names.

    Returns:
        The file.
    """
    assert config.directory is not None, "the run's configuration names the directory"
    directory = Path(config.directory)
    directory.mkdir(parents=True, exist_ok=True)
    header = {"format": FORMAT, "version": VERSION, "settings": dict(settings)}
    schema = SCHEMA.with_metadata({"trm": json.dumps(header)})
    table = pyarrow.Table.from_pylist([dict(row) for row in rows], schema=schema)
    path, unfinished = directory / f"{name}.parquet", directory / f".{name}.unfinished"
    pyarrow.parquet.write_table(table, unfinished, compression="zstd")
    unfinished.replace(path)
    for old in sorted(directory.glob("*.parquet"))[: -config.max_files]:
        old.unlink(missing_ok=True)
    return path


def task_of_prompt(prompt_ids: Sequence[int]) -> str:
    """Return the name of the task of a sequence whose episode is not known: 16 hexadecimal digits of its prompt."""
    return hashlib.sha256(json.dumps(list(prompt_ids)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Dump:
    """A dump in memory: padded arrays with one row per sequence. Shape (sequences, tokens) unless stated otherwise."""

    settings: dict[str, Any]
    """The TrmConfig's fields of the last file."""
    step: np.ndarray
    """Shape (sequences,)."""
    reward: np.ndarray
    """Shape (sequences,); NaN where unknown."""
    response_mask: np.ndarray
    """bool: sampled by the model."""
    log_probs: np.ndarray
    """Policy in training, nats."""
    rollout_log_probs: np.ndarray
    """Policy that sampled, nats."""
    advantages: np.ndarray
    divergences: dict[str, np.ndarray]
    """`DIVERGENCES`, if every file has them; else empty."""
    prompt_lengths: np.ndarray | None
    """Tokens before the response, shape (sequences,); None where a file lacks the prompts."""
    groups: np.ndarray | None
    """Numbers, equal for the sequences of one prompt, shape (sequences,); None where a file lacks the prompts."""
    rollout_versions: np.ndarray | None
    """Weight updates before the policy that sampled, -1 on tokens that the model did not sample; None where all tokens
    of a sequence are of one policy."""
    table: pyarrow.Table
    """The rows as they are in the files."""


def read_dump(path: Path) -> Dump:
    """Read a folder of dumps, or one of its files.

    Raises:
        ValueError: the folder has no dump, or a file is not a dump of this version or holds impossible numbers; the
        message
            names the file and the field.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ValueError(
            f"{path}: no dump there; give the folder that a run wrote with policy_loss.dump.every=N, or a file of it"
        )
    tables: list[pyarrow.Table] = []
    settings: dict[str, Any] = {}
    for file in files:
        table, settings = _read_file(file)
        tables.append(table)
    table = pyarrow.concat_tables(tables, promote_options="default")  # older files lack columns
    mask = _padded(table, "response_mask", False, bool)
    has_divergences = all(_is_whole(table, name) for name in DIVERGENCES)
    has_versions = _is_whole(table, "rollout_versions")
    versions = _padded(table, "rollout_versions", -1, np.int32) if has_versions else None
    return Dump(
        settings=settings,
        step=table["step"].to_numpy(),
        reward=table["reward"].to_numpy(zero_copy_only=False),
        response_mask=mask,
        log_probs=_padded(table, "log_probs", math.nan, np.float32),
        rollout_log_probs=_padded(table, "rollout_log_probs", math.nan, np.float32),
        advantages=_padded(table, "advantages", math.nan, np.float32),
        divergences={n: _padded(table, n, math.nan, np.float32) for n in DIVERGENCES} if has_divergences else {},
        prompt_lengths=_lengths(table, "prompt_ids"),
        groups=_numbers(table, "prompt_ids"),
        rollout_versions=versions,
        table=table,
    )


def read_header(file: Path, schema: pyarrow.Schema, versions: Sequence[int] = READABLE) -> dict[str, Any]:
    """Return the settings in the header of a dump's file; empty where it has none.

    Args:
        file: for the message.
        schema: of the file.
        versions: those that the caller reads.

    Raises:
        ValueError: it is not a dump, or one of another version.
    """
    try:
        header = json.loads((schema.metadata or {}).get(b"trm", b"{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: the header is not JSON that can be read ({str(error)[:80]}); dump again") from error
    header = header if isinstance(header, dict) else {}
    if header.get("format") != FORMAT or header.get("version") not in versions:
        found = f"format {str(header.get('format'))[:80]!r}, version {repr(header.get('version'))[:80]}"
        raise ValueError(
            f"{file}: {found}; allowed: {FORMAT!r}, version {' or '.join(map(str, versions))}; "
            "read it with the release that wrote it, or dump again"
        )
    settings = header.get("settings")
    return settings if isinstance(settings, dict) else {}


def check_columns(file: Path, schema: pyarrow.Schema, names: Collection[str]) -> None:
    """Refuse a file that lacks a column, or has another kind of values in it.

    Args:
        file: for the message.
        schema: of the file.
        names: the columns that are needed.

    Raises:
        ValueError: a column is missing, or is of another kind.
    """
    missing = [name for name in names if name not in schema.names]
    if missing:
        raise ValueError(f"{file}: no file of rollouts (without {', '.join(missing)}); dump again")
    for name in set(SCHEMA.names) & set(schema.names):
        found, wanted = schema.field(name).type, SCHEMA.field(name).type
        if _kind(found) != _kind(wanted):
            raise ValueError(f"{file}: the column {name} holds {found}, expected {wanted}; dump again")


def _kind(values: pyarrow.DataType) -> tuple[bool, bool, bool]:
    is_list = pyarrow.types.is_list(values)
    each = values.value_type if is_list else values
    is_text = pyarrow.types.is_string(each) or pyarrow.types.is_large_string(each)
    is_number = any(of(each) for of in (pyarrow.types.is_integer, pyarrow.types.is_floating, pyarrow.types.is_boolean))
    return is_list, is_text, is_number


def _read_file(file: Path) -> tuple[pyarrow.Table, dict[str, Any]]:
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            check_size(file, SCHEMA.names)
            settings = read_header(file, opened.schema_arrow)
            check_columns(file, opened.schema_arrow, _READ)
            table = opened.read([name for name in opened.schema_arrow.names if name in SCHEMA.names])
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file}: cannot be read as parquet ({error}); it may be cut off: delete it") from error
    _check_numbers(file, table)
    return table, settings


def _check_numbers(file: Path, table: pyarrow.Table) -> None:
    for name in ("log_probs", "rollout_log_probs"):
        for row, (values, mask) in enumerate(zip(table[name], table["response_mask"], strict=True)):
            numbers = np.asarray(values.values, dtype=np.float32)
            if len(numbers) != len(mask):
                raise ValueError(
                    f"{file}: {name} of row {row} has {len(numbers)} entries for {len(mask)} response tokens; "
                    "dump again"
                )
            numbers = numbers[np.asarray(mask.values.to_numpy(zero_copy_only=False), dtype=bool)]
            if len(numbers) and np.isnan(numbers).all():
                raise ValueError(f"{file}: {name} of row {row} is NaN everywhere; dump again with a sound model")
            if (numbers > 0).any():
                raise ValueError(
                    f"{file}: {name} of row {row} holds {numbers.max():g}; allowed: at most 0, the log of 1; dump again"
                )


def _is_whole(table: pyarrow.Table, name: str) -> bool:
    return name in table.column_names and table[name].null_count == 0


def _lengths(table: pyarrow.Table, name: str) -> np.ndarray | None:
    if not _is_whole(table, name):
        return None
    lengths = table[name].combine_chunks().value_lengths()
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def _numbers(table: pyarrow.Table, name: str) -> np.ndarray | None:
    """Return a number for each list of a column, the same for equal ones."""
    if not _is_whole(table, name):
        return None
    found: dict[bytes, int] = {}
    lists = (each.values.to_numpy(zero_copy_only=False).tobytes() for each in table[name])
    return np.array([found.setdefault(each, len(found)) for each in lists], dtype=np.int64)


def _padded(table: pyarrow.Table, name: str, filler: Any, dtype: Any) -> np.ndarray:
    column = table[name].combine_chunks()
    lengths = np.asarray(column.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)
    check_padded(lengths)
    padded = np.full((len(lengths), max(lengths, default=0)), filler, dtype=dtype)
    inside = np.arange(padded.shape[1]) < lengths[:, None]
    padded[inside] = column.flatten().to_numpy(zero_copy_only=False)
    return padded
