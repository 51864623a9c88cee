"""Pack the episodes of rollout files for the page's viewer, with a list of all that has the filters' fields.

The packed text of an episode goes straight to a file, so that memory does not grow with their number.
"""

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from trm_agent.report.codec import max_error, pack, quantise, smallest
from trm_agent.report.curves import number
from trm_agent.report.divergences import Measured, compares_tokens, measure, threshold
from trm_agent.report.rows import Row, groups_of, read_rows
from trm_agent.report.sources import Source
from trm_agent.report.spacing import spaced
from trm_agent.report.vocabulary import Vocabulary
from trm_agent.runs.failures import category, failing_turn
from trm_agent.trust_region.sampler_check import Draws

# beyond this number of the models' tokens, a number gets 8 bits instead of 16
MANY_TOKENS = 3_000_000
NUM_EXACT = 16
# stands in the list for a divergence that is infinite
INFINITE = 1e9
INDEX_FIELDS = (
    "id", "run", "step", "update", "tokens", "model", "turns", "reward", "success", "accepted", "stop", "env", "seed",
    "horizon", "worst", "violations", "calls", "malformed", "category", "group", "sample", "advantage", "rejected_by",
    "mark",
    "reason",
)  # fmt: skip


@dataclass
class Packed:
    """The page's data besides the packed episodes."""

    index: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in INDEX_FIELDS})
    """Column -> one value per episode."""
    vocabularies: list[Vocabulary] = field(default_factory=list)
    """One vocabulary per source."""
    settings: list[dict[str, Any]] = field(default_factory=list)
    """One mapping per source: `kind`, `threshold`, `compares_tokens`, of its last file."""
    available: int = 0
    """Episodes in the files."""
    draws: list[Draws] = field(default_factory=list)
    """One per source: its sampled tokens against the recorded probabilities."""
    bits: int = 16
    notes: list[str] = field(default_factory=list)
    """Files and rows that were left out, with the reasons."""


def pack_episodes(sources: Sequence[Source], limit: int, write: Callable[[int, str], None]) -> Packed:
    """Pack the episodes of all sources.

    Args:
        sources: with the files of their episodes.
        limit: the largest number of episodes; of more, evenly spaced ones are taken, in whole groups.
        write: takes each episode's number in the list and its text.

    Returns:
        The list of the episodes, in the order of `write`.
    """
    packed = Packed(draws=[Draws() for _ in sources])
    files: list[tuple[int, Path, int]] = []
    groups: list[Hashable | None] = []
    for run, source in enumerate(sources):
        packed.vocabularies.append(Vocabulary())
        packed.settings.append({})
        for file in source.episode_files:
            try:
                of_file = groups_of(file)
            except ValueError as error:
                packed.notes.append(f"{source.label}: {error}; skipped")
                continue
            files.append((run, file, len(of_file)))
            groups += [None if group is None else (run, *group) for group in of_file]
    packed.available = len(groups)
    wanted = np.array(spaced(groups, limit), np.int64)
    packed.bits = 16 if _estimate_tokens(files, len(wanted)) <= MANY_TOKENS else 8
    first = 0
    for run, file, count in files:
        keep = {number - first for number in wanted[np.searchsorted(wanted, first) :] if number < first + count}
        first += count
        if keep:
            _pack_file(packed, run, sources[run], file, keep, write)
    return packed


def precision(packed: Packed) -> dict[str, float]:
    """Return the largest relative errors of the displayed values; tokens are stored exactly."""
    return {"log_prob": max_error(packed.bits), "log_ratio": max_error(packed.bits, signed=True)}


def _pack_file(
    packed: Packed, run: int, source: Source, file: Path, keep: set[int], write: Callable[[int, str], None]
) -> None:
    try:
        for row in read_rows(file, keep):
            measured = measure(row)
            packed.settings[run] = _setting(row, measured)
            packed.draws[run].add(row)
            try:
                text = pack_episode(row, measured, packed.vocabularies[run], packed.bits)
            except ValueError as error:
                packed.notes.append(f"{source.label}: {file.name}: row {row.number}: {error}; skipped")
                continue
            number = len(packed.index["id"])
            entry = index_entry(row, measured, run, source.kind)
            if entry["group"] is not None:
                entry["sample"] = 1 + packed.index["group"].count(entry["group"])
                entry["id"] += f" · {entry['sample']}"
            for name, value in entry.items():
                packed.index[name].append(value)
            write(number, text)
    except ValueError as error:
        packed.notes.append(f"{source.label}: {error}; skipped")


def pack_episode(row: Row, measured: Measured, vocabulary: Vocabulary, bits: int) -> str:
    """Pack one episode as text.

    Its sections: `ids` (prompt and response, indices into the vocabulary), and for the model's tokens `p` (minus the
    sampling policy's log-prob), `ratio` (log importance ratio), `upper` and where it differs `lower` (measured
    divergences), all quantised; `exact_*` for the tokens at `exact_at` (every violating one and the largest few):
    float32 of rollout log-prob, log-prob, divergence and its lower bound; `violations`: the tokens that violate.

    Raises:
        ValueError: a token id or a turn's span is impossible.
    """
    ids = np.concatenate([row.prompt_ids, row.response_ids]).astype(np.int64)
    arrays = {"ids": smallest(vocabulary.indices(ids))}
    if measured.rollout_log_probs is not None:
        arrays["p"] = quantise(-measured.rollout_log_probs, bits)
    if measured.log_ratio is not None:
        arrays["ratio"] = quantise(measured.log_ratio, bits, signed=True)
    if measured.kind == "measured":
        arrays["upper"] = quantise(measured.value, bits)
        if measured.lower is not None and not np.array_equal(measured.lower, measured.value, equal_nan=True):
            arrays["lower"] = quantise(np.maximum(measured.lower, 0), bits)
    order = np.argsort(-np.nan_to_num(measured.value, nan=np.inf), kind="stable")[:NUM_EXACT]
    violations = np.flatnonzero(measured.violates)
    exact = np.union1d(order, violations)
    arrays |= {"violations": violations.astype("<u4"), "exact_at": exact.astype("<u4")}
    nothing = np.full(len(measured.value), np.nan)
    rollout = nothing if measured.rollout_log_probs is None else measured.rollout_log_probs
    columns = {
        "exact_rollout": rollout,
        "exact_log_prob": nothing if measured.log_ratio is None else rollout + measured.log_ratio,
        "exact_value": measured.value,
        "exact_lower": nothing if measured.lower is None else measured.lower,
    }
    arrays |= {name: values[exact].astype("<f4") for name, values in columns.items()}
    header = {
        "prompt": len(row.prompt_ids),
        "bits": bits,
        "kind": measured.kind,
        "threshold": threshold(row.settings),
        "runs": spans(row.response_mask),
        "turns": turns(row),
        "step": row.step,
        "versions": version_runs(row),
        "record": {key: clean(value) for key, value in row.record.items() if key != "turns"},
    }
    return pack(header, arrays)


def spans(mask: np.ndarray) -> list[int]:
    """Return the ends of the model's runs of tokens: start, stop, start, stop, ..."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [int(edge) for edge in edges]


def version_runs(row: Row) -> list[tuple[int, int]]:
    """Return where the model's tokens begin to be of another version: number of the token, and the version."""
    if row.rollout_versions is None:
        return []
    versions = row.rollout_versions[row.response_mask].astype(np.int64)
    starts = np.flatnonzero(np.diff(versions, prepend=-1))
    return [(int(start), int(versions[start])) for start in starts]


def turns(row: Row) -> list[dict[str, Any]]:
    """Return the record's turns, else one for each run of the model's tokens."""
    length, edges = len(row.response_ids), spans(row.response_mask)
    recorded = row.record.get("turns")
    if not recorded:
        starts = [*edges[::2], length]
        return [
            {"start": edges[2 * i], "stop": edges[2 * i + 1], "observation_stop": following}
            for i, (_, following) in enumerate(pairwise(starts))
        ]
    keys = ("start", "stop", "observation_stop", "reward", "num_tool_calls", "malformed", "finished", "role")
    found = [{key: scalar(turn.get(key)) for key in keys} for turn in recorded]
    for index, turn in enumerate(found):
        start, stop = turn["start"], turn["stop"]
        if not (isinstance(start, int) and isinstance(stop, int) and 0 <= start <= stop <= length):
            raise ValueError(f"turn {index} is [{start}, {stop}) of {length} tokens")
        following = found[index + 1]["start"] if index + 1 < len(found) else length
        turn["observation_stop"] = following
    return found


def index_entry(row: Row, measured: Measured, run: int, kind: str) -> dict[str, Any]:
    """Return the fields of an episode that the list shows and filters by."""
    record = row.record
    options = record.get("options") or {}
    values = np.where(np.isnan(measured.value), -np.inf, measured.value)
    worst = float(values.max(initial=-np.inf))
    name = f"step {row.step} · {_place(row)} · row {row.number}"
    if row.task is not None and kind == "run":
        horizon = options.get("horizon")
        parts = [f"step {row.step}", "" if horizon is None else f"h{scalar(horizon)}", f"task {row.task[:6]}"]
        name = " · ".join(filter(None, parts))
    if kind == "evaluation":
        places = (record.get("checkpoint"), record.get("env"), record.get("task"), record.get("sample"))
        known = all(place is not None for place in places)
        told = "{} · {} · task {} · sample {}".format(*map(scalar, places))
        name = told if known else f"{row.file.stem} · row {row.number}"
    listed = turns(row)
    num_malformed = sum(bool(turn.get("malformed")) for turn in listed)
    failing = failing_turn(record, listed)
    advantages = [] if row.advantages is None else row.advantages[np.isfinite(row.advantages)]
    return {
        "id": name,
        "run": run,
        "step": row.step,
        "update": row.update,
        "tokens": len(row.response_ids),
        "model": len(measured.value),
        "turns": len(listed),
        "reward": row.reward if row.reward is not None else number(record.get("reward")),
        "success": scalar(record.get("success")),
        "accepted": row.accepted,
        "stop": scalar(record.get("stop_reason")),
        "env": scalar(record.get("env") or record.get("env_id")),
        "seed": scalar(record.get("seed")),
        "horizon": scalar(record.get("horizon", options.get("horizon"))),
        "worst": None if worst == -math.inf else (INFINITE if worst == math.inf else float(f"{worst:.5g}")),
        "violations": int(measured.violates.sum()),
        "calls": sum(number(turn.get("num_tool_calls")) or 0 for turn in listed),
        "malformed": num_malformed,
        "category": category(record, num_malformed),
        "group": None if row.task is None else f"{run} {row.step} {row.task}",
        "sample": None,
        "advantage": float(f"{np.mean(advantages):.4g}") if len(advantages) else None,
        "rejected_by": ", ".join(row.rejected_by)[:200],
        "mark": None if failing is None else failing[0],
        "reason": None if failing is None else failing[1],
    }


def _place(row: Row) -> str:
    """Name the update of the step, and the rank's file unless it is the first."""
    named = re.search(r"update_(\d+)\.rank_(\d+)$", row.file.stem)
    if named is None:
        return row.file.stem
    update, rank = map(int, named.groups())
    return f"update {update}" + (f" · rank {rank}" if rank else "")


def clean(value: Any) -> Any:
    """Convert a value to JSON: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): clean(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scalar(value: Any) -> Any:
    """Return a record's value as a number, a text of at most 200 characters, a truth value or None."""
    if value is None or isinstance(value, bool | int | float):
        return clean(value)
    return str(value)[:200]


def _setting(row: Row, measured: Measured) -> dict[str, Any]:
    return {
        "kind": measured.kind,
        "threshold": threshold(row.settings),
        "criterion": row.settings.get("criterion"),
        "compares_tokens": compares_tokens(row.settings),
    }


def _estimate_tokens(files: Sequence[tuple[int, Path, int]], wanted: int) -> float:
    """Estimate the tokens of `wanted` episodes from the first row of at most eight files."""
    lengths = []
    for _, file, count in files[:: max(1, len(files) // 8)]:
        try:
            lengths += [len(row.response_ids) for row in read_rows(file, {0})] if count else []
        except ValueError:
            continue
    return wanted * float(np.mean(lengths)) if lengths else 0.0
