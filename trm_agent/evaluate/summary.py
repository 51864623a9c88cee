"""The figures of an evaluation: rows of results.jsonl in, summary.json and the table on the screen out."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from trm_agent.evaluate.horizon import fit_horizon, geometric
from trm_agent.evaluate.paired import NUM_RESAMPLES, compare
from trm_agent.evaluate.results import is_failure
from trm_agent.evaluate.statistics import Estimate, mean_interval, pass_at_k, pass_hat_k

Row = Mapping[str, Any]
Tasks = dict[int, list[Row]]
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
        rows: as results.jsonl holds them. Of several of one (checkpoint, env, task, sample) the first that is no
            infrastructure failure counts, else the last.
        samples: k, the episodes asked for of each task.
        checkpoints: labels, the one to compare the others with first; None for the order of the rows.
        environments: names; None for the order of the rows.
        seed: of the bootstraps and permutations.
        num_resamples: of the paired comparison.

    Returns:
        JSON-clean, None for what is not known: see docs/evaluate.md.

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
    """One row for each (checkpoint, env, task, sample): the first that is no infrastructure failure, else the last.

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
    """Figures of one checkpoint on one environment; `rows` in the order of tasks and samples."""
    tasks = _by_task(rows)
    horizons = [_horizon(group) for group in tasks.values()]
    success = [_rate(group) for group in tasks.values()]
    accuracy = [
        _mean(row["numbers"]["step_accuracy"] for row in group if "step_accuracy" in (row.get("numbers") or {}))
        for group in tasks.values()
    ]
    levels = sorted({level for row in rows if (level := row.get("horizon")) is not None})
    numbers = _floats(horizons)
    model = geometric(numbers, _floats(success), _floats(accuracy))
    return {
        **_figures(rows, samples),
        "by_horizon": [
            {"horizon": level, **_figures([row for row in rows if row.get("horizon") == level], samples)}
            for level in levels
        ],
        "horizon_length": asdict(fit_horizon(numbers, _floats(success), seed)),
        "geometric": None if model is None else asdict(model),
    }


def _figures(rows: Sequence[Row], samples: int) -> dict[str, Any]:
    valid = [row for row in rows if not is_failure(row)]
    failures = Counter(row["stop_reason"] for row in rows if is_failure(row))
    tasks = _by_task(valid)
    strata = [_horizon(group) for group in tasks.values()]
    num = np.array([len(group) for group in tasks.values()], dtype=np.int64)
    successes = np.array([sum(bool(row["success"]) for row in group) for group in tasks.values()], dtype=np.int64)
    ks = range(1, samples + 1)
    turns = sum(row.get("turns") or 0 for row in valid)
    counted: dict[str, list[float]] = defaultdict(list)
    for row in valid:
        for name, value in (row.get("numbers") or {}).items():
            counted[name].append(value)
    return {
        "tasks": len(tasks),
        "tasks_without_episode": len(_by_task(rows)) - len(tasks),
        "episodes": len(valid),
        "infrastructure_failures": dict(sorted(failures.items())),
        "success": _estimate(mean_interval(successes / np.maximum(num, 1), strata)),
        "pass_at_k": {str(k): _estimate(mean_interval(pass_at_k(num, successes, k), strata)) for k in ks},
        "pass_hat_k": {str(k): _estimate(mean_interval(pass_hat_k(num, successes, k), strata)) for k in ks},
        "means": {name: _mean(row.get(name) for row in valid) for name in MEANS},
        "malformed_turn_frac": sum(row.get("malformed_turns") or 0 for row in valid) / turns if turns else None,
        "numbers": {name: _mean(values) for name, values in sorted(counted.items())},
        "stop_reasons": dict(sorted(Counter(row["stop_reason"] for row in valid).items())),
    }


def _comparison(first: Sequence[Row], second: Sequence[Row], seed: int, num_resamples: int) -> dict[str, Any]:
    """Second minus first on the tasks of which both have an episode, in all and by horizon."""
    sides = [_by_task([row for row in rows if not is_failure(row)]) for rows in (first, second)]
    shared = sorted(sides[0].keys() & sides[1].keys())
    rates = [np.array([_rate(side[task]) for task in shared], dtype=np.float64) for side in sides]
    horizons = [_horizon(sides[0][task]) for task in shared]
    result = asdict(compare(rates[0], rates[1], horizons, seed, num_resamples))
    by_horizon = []
    for level in sorted({horizon for horizon in horizons if horizon is not None}):
        here = np.array([horizon == level for horizon in horizons])
        part = compare(rates[0][here], rates[1][here], seed=seed, num_resamples=num_resamples)
        by_horizon.append({"horizon": level, **asdict(part)})
    return {**result, "by_horizon": by_horizon}


def _by_task(rows: Iterable[Row]) -> Tasks:
    tasks: Tasks = defaultdict(list)
    for row in rows:
        tasks[row["task"]].append(row)
    return tasks


def _horizon(rows: Sequence[Row]) -> int | None:
    return rows[0].get("horizon")


def _rate(rows: Sequence[Row]) -> float | None:
    return _mean(float(bool(row["success"])) for row in rows if not is_failure(row))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None


def _floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _estimate(estimate: Estimate) -> dict[str, float | int | None]:
    return asdict(estimate)


def _order(given: Sequence[str] | None, seen: Iterable[str]) -> list[str]:
    """The given names and, behind them, what else there is."""
    return list(dict.fromkeys([*(given or ()), *seen]))


def table(summary: Mapping[str, Any]) -> str:
    """The figures for the screen, at most 100 columns wide."""
    k = summary["samples"]
    lines = [
        f"avg@{k} with 95 % intervals over tasks: {summary['episodes']} episodes, "
        f"{summary['infrastructure_failures']} infrastructure failures (in no rate)"
    ]
    for name in summary["environments"]:
        results = [result for result in summary["results"] if result["env"] == name]
        if not results:
            continue
        head = f"{'checkpoint':<28}{'horizon':>8}{'tasks':>6}{f'avg@{k}':>8}{'95 % interval':>17}"
        head += f"{f'pass@{k}':>9}{f'pass^{k}':>9}{'turns':>7}{'tokens':>8}"
        lines += ["", name, head, "-" * len(head)]
        for result in results:
            parts = result["by_horizon"] if len(result["by_horizon"]) > 1 else []
            label = [_cut(result["checkpoint"], 27), *[""] * len(parts)]
            lines += [_line(*pair, k) for pair in zip(label, [result, *parts], strict=True)]
        if any(result["horizon_length"]["reason"] != "no horizon" for result in results):
            lines += ["", "horizon length (steps at 50 % success)"]
            lines += [f"  {_cut(r['checkpoint'], 25):<26}{_length(r['horizon_length'])}" for r in results]
        lines += _paired(comparison for comparison in summary["comparisons"] if comparison["env"] == name)
        lines += _reasons("why episodes stopped", results, "stop_reasons", True)
        lines += _reasons("infrastructure failures", results, "infrastructure_failures", False)
    return "\n".join(lines)


def _line(label: str, figures: Mapping[str, Any], k: int) -> str:
    success, means = figures["success"], figures["means"]
    horizon = str(figures.get("horizon", "all"))
    at, hat = figures["pass_at_k"][str(k)]["value"], figures["pass_hat_k"][str(k)]["value"]
    return (
        f"{label:<28}{horizon:>8}{figures['tasks']:>6}{_percent(success['value']):>8}{_interval(success):>17}"
        f"{_percent(at):>9}{_percent(hat):>9}{_number(means['turns'], 1):>7}{_number(means['model_tokens'], 0):>8}"
    )


def _length(length: Mapping[str, Any]) -> str:
    """One line: the fit, or why there is none."""
    status, longest, shortest = length["status"], length["longest"], length["shortest"]
    if length["reason"] is not None:
        bound = {"above": f"above {_number(longest, 0)}: ", "below": f"below {_number(shortest, 0)}: "}
        return f"{bound.get(status, '- ')}{length['reason']}"
    text = f"{_number(length['steps'], 1)} [{_number(length['low'], 1)}, {_number(length['high'], 1)}]"
    if status == "inside":
        return text
    end = longest if status == "above" else shortest
    return f"{text} extrapolated: {status} {end:g}, where the measured horizons end"


def _paired(comparisons: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = []
    for comparison in comparisons:
        first, second = (_cut(comparison[side], 24) for side in ("first", "second"))
        lines += ["", f"{second} minus {first}, on the same tasks"]
        parts = comparison["by_horizon"] if len(comparison["by_horizon"]) > 1 else []
        for part in (comparison, *parts):
            value = "-" if part["difference"] is None else f"{100 * part['difference']:+.1f}"
            p = part["p_value"]
            shown = "-" if p is None else f"p < {0.001}" if p < 0.001 else f"p = {p:.3f}"
            lines.append(
                f"{'':<28}{part.get('horizon', 'all'):>8}{part['num_tasks']:>6}{value:>8}{_interval(part):>17}  {shown}"
            )
    return lines


def _reasons(title: str, results: Sequence[Mapping[str, Any]], key: str, as_share: bool) -> list[str]:
    lines = []
    for result in results:
        total = sum(result[key].values())
        if total:
            texts = [
                f"{name} {_percent(count / total)} %" if as_share else f"{name} {count}"
                for name, count in sorted(result[key].items(), key=lambda item: -item[1])
            ]
            lines += _wrapped(_cut(result["checkpoint"], 25), texts)
    return ["", title, *lines] if lines else []


def _wrapped(label: str, texts: Sequence[str], width: int = 98) -> list[str]:
    lines = [f"  {label:<26}"]
    for index, text in enumerate(texts):
        piece = text + ("," if index < len(texts) - 1 else "")
        if len(lines[-1]) + len(piece) + 1 > width:
            lines.append(" " * 28)
        lines[-1] += f"{piece} "
    return [line.rstrip() for line in lines]


def _interval(estimate: Mapping[str, Any]) -> str:
    return f"[{_percent(estimate['low'])}, {_percent(estimate['high'])}]"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _cut(text: str, width: int) -> str:
    """The end of a long label: checkpoints of one run differ there."""
    return text if len(text) <= width else "…" + text[1 - width :]
