"""Compute `env/...` and `run/...` metrics from the summaries of episodes; docs/metrics.md defines each name."""

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from trm_agent.runs.failures import ending_shares


def training_metrics(
    summaries: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    step_seconds: float,
    tokens_left_out: int = 0,
) -> dict[str, float]:
    """Return the metrics of one training step.

    Args:
        summaries: `agent_loop.summary` of every episode that was trained on.
        failures: the tags of the episodes that ended as infrastructure failures: `stop_reason`, and
            `late_turn_tokens` where a turn was late.
        step_seconds: wall time of the step, seconds.
        tokens_left_out: tokens that the model sampled for episodes that were played and not trained on.
    """
    metrics = {"env/num_episodes": float(len(summaries))}
    metrics.update(failure_metrics(failures))
    if not summaries:
        return metrics
    by_horizon = defaultdict(list)
    for item in summaries:
        by_horizon[item["horizon"]].append(float(item["success"]))
    metrics["env/scorer_errors"] = float(sum(item.get("scorer_error") is not None for item in summaries))
    metrics["env/success"] = _mean(item["success"] for item in summaries)
    metrics.update({f"env/success/h{horizon}": _mean(values) for horizon, values in by_horizon.items()})
    turns = [item["turns"] for item in summaries]
    tokens = [item["response_tokens"] for item in summaries]
    model_tokens = sum(item["model_tokens"] for item in summaries)
    metrics |= {
        "env/turns/mean": _mean(turns),
        "env/turns/max": float(max(turns)),
        "env/tool_calls/mean": _mean(item["tool_calls"] for item in summaries),
        "env/malformed_turn_frac": sum(item["malformed_turns"] for item in summaries) / max(1, sum(turns)),
        "env/cut_turn_frac": sum(item["cut_turns"] for item in summaries) / max(1, sum(turns)),
        "env/token_nll": sum(item["nll"] for item in summaries) / max(1, model_tokens),
        "env/response_tokens/mean": _mean(tokens),
        "env/response_tokens/max": float(max(tokens)),
        "env/model_token_frac": model_tokens / max(1, sum(tokens)),
        "env/step_s/mean": _mean(item["env_s"] for item in summaries),
        "env/generate_s/mean": _mean(item["generate_s"] for item in summaries),
        "run/tokens_per_s": (model_tokens + tokens_left_out) / step_seconds if step_seconds > 0 else float("nan"),
        "run/data_fingerprint": float(fingerprint(item["seed"] for item in summaries)),
    }
    if any(item.get("paused_s") for item in summaries):
        metrics["env/paused_s/mean"] = _mean(item["paused_s"] for item in summaries)
    counted = defaultdict(list)
    for item in summaries:
        for name, value in item.get("numbers", {}).items():
            counted[name].append(value)
    metrics.update({f"env/task/{name}": _mean(values) for name, values in counted.items()})
    metrics.update(ending_shares(summaries))
    reasons = Counter(item["stop_reason"] for item in summaries)
    metrics.update({f"env/stop_reason/{reason}": count / len(summaries) for reason, count in reasons.items()})
    return metrics


def failure_metrics(failures: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Count infrastructure failures overall and by stop reason, and late turns by their token budget."""
    metrics = {"env/infrastructure_failures": float(len(failures))}
    names = Counter(item["stop_reason"] for item in failures)
    late = [(item["stop_reason"], tokens) for item in failures if (tokens := item.get("late_turn_tokens")) is not None]
    names.update(f"{reason}/le_{power_of_two(tokens)}" for reason, tokens in late)
    return metrics | {f"env/infrastructure_failures/{name}": float(count) for name, count in names.items()}


def power_of_two(number: int) -> int:
    """Return the least power of two that is not less than a positive number."""
    return 1 << (number - 1).bit_length()


def validation_metrics(sources: Sequence[str], success: Sequence[float | None]) -> dict[str, float]:
    """Return `env/val_success/<source>` and the number of episodes behind each.

    Args:
        sources: the data source of each episode, `h<horizon>`, or `greedy_h<horizon>` of those played greedily.
        success: 1.0 or 0.0 for each episode; None where it was not scored.
    """
    by_source = defaultdict(list)
    for source, value in zip(sources, success, strict=True):
        if value is not None:
            by_source[source].append(float(value))
    metrics = {}
    for source, values in by_source.items():
        metrics[f"env/val_success/{source}"] = _mean(values)
        metrics[f"env/val_num_episodes/{source}"] = float(len(values))
    return metrics


def fingerprint(seeds: Iterable[int]) -> int:
    """Return a 32-bit checksum of the tasks of a step, whatever their order and group size."""
    return zlib.crc32(",".join(str(seed) for seed in sorted(set(seeds))).encode())


def _mean(values: Iterable[Any]) -> float:
    return float(np.mean([float(value) for value in values]))
