"""Compute the figures of an evaluation: from rows of results.jsonl to summary.json."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from trm_agent.evaluate.results import is_failure
from trm_agent.evaluate.statistics.horizon import geometric
from trm_agent.evaluate.statistics.lost import (
    Counts,
    comparison,
    horizon_length,
    pass_estimates,
    rates,
    success_estimate,
)
from trm_agent.evaluate.statistics.paired import NUM_RESAMPLES
from trm_agent.evaluate.statistics.screen import table

__all__ = ["effective_rows", "summarise", "table"]

Row = Mapping[str, Any]
Tasks = dict[tuple[str, Any], list[Row]]
"""Rows by (`task`, number) or (`problem`, name)."""
MEANS = (
    "reward", "turns", "tool_calls", "malformed_turns", "model_tokens", "response_tokens",
    "generate_s", "env_s", "total_s",
)  # fmt: skip


def summarise(
    rows: Iterable[Row],
    samples: int,
    checkpoints: Sequence[str] | None = None,
    environments: Sequence[str] | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Any]:
    """Compute all figures. They do not depend on the order of the rows if `checkpoints` and `environments` are given.

    Args:
        rows: as results.jsonl holds them. Among several of one (checkpoint, env, task, sample), the first that is not
        an
            infrastructure failure counts, else the last.
        samples: k, the requested episodes of each task.
        checkpoints: labels, the one to compare the others with first; None for the order of the rows.
        environments: names; None for the order of the rows.
        seed: of the bootstraps and permutations.
        num_resamples: of the paired comparison.

    Returns:
        JSON-clean, None for unknown values: see docs/evaluate.md.

    Raises:
        ValueError: `samples` is not positive, or a row has an unknown stop reason.
    """
    if samples < 1:
        raise ValueError(f"samples: got {samples}; allowed: 1 or more; give the number of episodes of each task")
    found = effective_rows(rows)
    labels = _order(checkpoints, (row["checkpoint"] for row in found))
    names = _order(environments, (row["env"] for row in found))
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in found:
        groups[row["checkpoint"], row["env"]].append(row)
    for group in groups.values():
        group.sort(key=lambda row: (row["task"], row["sample"]))
    pairs = [(label, name) for name in names for label in labels if (label, name) in groups]
    return {
        "samples": samples,
        "episodes": sum(not is_failure(row) for row in found),
        "infrastructure_failures": sum(map(is_failure, found)),
        "checkpoints": labels,
        "environments": names,
        "results": [
            {"checkpoint": label, "env": name, **_result(groups[label, name], samples, seed)} for label, name in pairs
        ],
        "comparisons": [
            {"env": name, "first": labels[0], "second": label, **_comparison(first, second, seed, num_resamples)}
            for name in names
            for label in labels[1:]
            if (first := groups.get((labels[0], name))) and (second := groups.get((label, name)))
        ],
    }


def effective_rows(rows: Iterable[Row]) -> list[Row]:
    """Keep one row per (checkpoint, env, task, sample): the first that is not an infrastructure failure, else the last.

    Raises:
        ValueError: a row has an unknown stop reason.
    """
    kept: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = (row["checkpoint"], row["env"], row["task"], row["sample"])
        if key not in kept or is_failure(kept[key]):
            kept[key] = row
    return list(kept.values())


def _result(rows: Sequence[Row], samples: int, seed: int) -> dict[str, Any]:
    """Return the figures of one checkpoint on one environment; `rows` are in the order of tasks and samples."""
    tasks = _by_task(rows)
    counts = _counts(tasks.values())
    accuracy = [
        _mean(row["numbers"]["step_accuracy"] for row in group if "step_accuracy" in (row.get("numbers") or {}))
        for group in tasks.values()
    ]
    levels = sorted({level for row in rows if (level := row.get("horizon")) is not None})
    model = geometric(_floats(counts.strata), rates(counts), _floats(accuracy))
    return {
        **_figures(rows, samples),
        "by_horizon": [
            {"horizon": level, **_figures([row for row in rows if row.get("horizon") == level], samples)}
            for level in levels
        ],
        "horizon_length": asdict(horizon_length(counts, seed)),
        "geometric": None if model is None else asdict(model),
    }


def _figures(rows: Sequence[Row], samples: int) -> dict[str, Any]:
    valid = [row for row in rows if not is_failure(row)]
    failures = Counter(row["stop_reason"] for row in rows if is_failure(row))
    tasks = _by_task(valid)
    counts = _counts(_by_task(rows).values())
    ks = range(1, samples + 1)
    at, hat = pass_estimates(counts, ks)
    turns = sum(row.get("turns") or 0 for row in valid)
    counted: dict[str, list[float]] = defaultdict(list)
    for row in valid:
        for name, value in (row.get("numbers") or {}).items():
            counted[name].append(value)
    return {
        "tasks": len(tasks),
        "tasks_without_episode": len(_by_task(rows)) - len(tasks),
        "tasks_that_lost_samples": int((counts.lost > 0).sum()),
        "episodes": len(valid),
        "infrastructure_failures": dict(sorted(failures.items())),
        "success": asdict(success_estimate(counts)),
        "pass_at_k": {str(k): asdict(estimate) for k, estimate in zip(ks, at, strict=True)},
        "pass_hat_k": {str(k): asdict(estimate) for k, estimate in zip(ks, hat, strict=True)},
        "means": {name: _mean(row.get(name) for row in valid) for name in MEANS},
        "malformed_turn_frac": sum(row.get("malformed_turns") or 0 for row in valid) / turns if turns else None,
        "numbers": {name: _mean(values) for name, values in sorted(counted.items())},
        "scorer_errors": sum(row.get("scorer_error") is not None for row in valid),
        "stop_reasons": dict(sorted(Counter(row["stop_reason"] for row in valid).items())),
    }


def _comparison(first: Sequence[Row], second: Sequence[Row], seed: int, num_resamples: int) -> dict[str, Any]:
    """Compare second minus first on the tasks that both were given, overall and by horizon."""
    sides = [_by_task(rows) for rows in (first, second)]
    shared = sorted(sides[0].keys() & sides[1].keys())

    def compared(tasks: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        one, other = (_counts(side[task] for task in tasks) for side in sides)
        return asdict(comparison(one, other, seed, num_resamples))

    horizons = {task: _horizon(sides[0][task]) for task in shared}
    levels = sorted({level for level in horizons.values() if level is not None})
    by_horizon = [{"horizon": level, **compared([t for t in shared if horizons[t] == level])} for level in levels]
    return {**compared(shared), "by_horizon": by_horizon}


def _by_task(rows: Iterable[Row]) -> Tasks:
    """Group rows by task; rows that name the same problem are one task, whatever their numbers."""
    tasks: Tasks = defaultdict(list)
    for row in rows:
        problem = row.get("problem")
        tasks[("task", row["task"]) if problem is None else ("problem", problem)].append(row)
    return tasks


def _counts(tasks: Iterable[Sequence[Row]]) -> Counts:
    """Count the samples of each task in order, tasks whose samples all failed included."""
    groups = list(tasks)
    lost = [sum(map(is_failure, group)) for group in groups]
    successes = [sum(bool(row["success"]) and not is_failure(row) for row in group) for group in groups]
    num = [len(group) - failures for group, failures in zip(groups, lost, strict=True)]
    played, right, failed = (np.array(each, dtype=np.int64) for each in (num, successes, lost))
    return Counts(played, right, failed, [_horizon(group) for group in groups])


def _horizon(rows: Sequence[Row]) -> int | None:
    return rows[0].get("horizon")


def _mean(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None


def _floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _order(given: Sequence[str] | None, seen: Iterable[str]) -> list[str]:
    """Return the given names, followed by all others."""
    return list(dict.fromkeys([*(given or ()), *seen]))
