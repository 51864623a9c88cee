"""The table at the end of a run: success before and after by horizon, with intervals."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trm_agent.models.nano_spec import PATH as NANO
from trm_agent.runs.data_text import read_yaml
from trm_agent.runs.folder import CONFIG_FILE, SUMMARY_FILE, read_metrics
from trm_agent.runs.raised import read_raised, run_warning
from trm_agent.runs.rates import newcombe, wilson
from trm_agent.runs.screen import EQUAL_GROUPS

FEW = 20
"""Number of tasks of a horizon below which the table says that its figures are few."""
_SCALE = 100
_UNKNOWN = "whether the tasks are held out is not known: the environment could not be made to ask it"


def table_of(run_dir: Path) -> str:
    """Format the table of a complete run, with notes where steps had nothing to learn from or environments raised."""
    shown = table(json.loads((run_dir / SUMMARY_FILE).read_text(encoding="utf-8")))
    rows = read_metrics(run_dir)
    return "\n".join([shown, *nothing_learnt(rows, _is_nano(run_dir)), *run_warning(rows, read_raised(run_dir))])


def nothing_learnt(rows: Sequence[Mapping[str, Any]], is_nano: bool = False) -> list[str]:
    """Return a line if in most steps of a run, or in all, no task's episodes differed in reward.

    Args:
        rows: of metrics.jsonl.
        is_nano: whether the run's model is a nano model, whose warm start can be longer.
    """
    shares = [row[EQUAL_GROUPS] for row in rows if row.get(EQUAL_GROUPS) is not None]
    num_equal = sum(share == 1 for share in shares)
    if 2 * num_equal <= len(shares):
        return []
    which = "no step" if num_equal == len(shares) else f"only {len(shares) - num_equal} of {len(shares)} steps"
    warm_start = ", a better warm start (env.nano.max_steps)" if is_nano else ""
    return [
        "",
        f"{which} had a task whose episodes differ in reward; else the policy loss has no gradient: take tasks "
        f"that succeed sometimes (env.train.horizons, shorter ones){warm_start}, or larger groups "
        "(actor_rollout_ref.rollout.n)",
    ]


def _is_nano(run_dir: Path) -> bool:
    """Return whether the run begins with a nano model."""
    if not (run_dir / CONFIG_FILE).exists():
        return False
    config: Any = read_yaml((run_dir / CONFIG_FILE).read_text(encoding="utf-8"))
    for name in ("actor_rollout_ref", "model", "path"):
        config = config.get(name) if isinstance(config, dict) else None
    return bool(config == NANO)


def table(summary: dict[str, Any]) -> str:
    """Format the table of before and after by horizon; a rate is missing if no episode could be played.

    Args:
        summary: of a run; that of an older version has no numbers of episodes, and its table no intervals. Episodes of
            one task count as one observation, since they share its difficulty.
    """
    before, after = summary["success"]["before"], summary["success"]["after"]
    trained = set(summary["trained_horizons"])
    old_counts, new_counts = (_tasks(summary, name) for name in ("before", "after"))
    width = 22 if old_counts or new_counts else 8
    held_out = summary.get("held_out")
    title = {True: "held-out success", False: "not held out: success", None: "success"}[held_out]
    head = f"{title:<22}{'before':<{width}} {'after':<{width}} change"
    lines = [head, "-" * (len(head) + width - 6)]
    for horizon in sorted(before.keys() | after.keys(), key=int):
        name = f"horizon {horizon}" + (" (trained)" if int(horizon) in trained else "")
        old, new = (before.get(horizon), old_counts.get(horizon)), (after.get(horizon), new_counts.get(horizon))
        lines.append(f"{name:<20}{_rate(*old):<{width}} {_rate(*new):<{width}} {_change(*old, *new)}".rstrip())
    lines += _notes([*old_counts.values(), *new_counts.values()], has_one_task=held_out is False)
    lines += [_UNKNOWN] if "held_out" in summary and held_out is None else []
    lines += summary.get("lacks", [])
    region = summary["trust_region"]
    if region:
        reasons = ", ".join(
            f"by {name.removeprefix('rejected_by_')} {_SCALE * share:.1f} %"
            for name, share in region.items()
            if name != "acceptance"
        )
        accepted = f"{_SCALE * region['acceptance']:.1f} %"
        lines += ["", f"trust region: {accepted} of the sequences accepted; rejected {reasons}"]
    return "\n".join(lines)


def _tasks(summary: dict[str, Any], name: str) -> dict[str, float]:
    """Return the number of tasks behind each rate; not whole where episodes were lost."""
    samples = summary.get("val_samples", 1)
    return {horizon: count / samples for horizon, count in summary.get("val_episodes", {}).get(name, {}).items()}


def _notes(counts: list[float], has_one_task: bool) -> list[str]:
    if not counts:
        return []
    fewest, most = min(counts), max(counts)
    each = f"{fewest:.0f}" if fewest == most else f"{fewest:.0f} to {most:.0f}"
    if has_one_task:
        return [f"95 % intervals over {each} episodes of one task"]
    notes = [f"95 % intervals over {each} tasks per horizon, unpaired (trm report pairs them by task)"]
    if fewest < FEW:
        notes.append(f"fewer than {FEW} tasks: a change whose interval holds 0 says nothing (env.val.num_tasks)")
    return notes


def _rate(rate: float | None, count: float | None) -> str:
    if rate is None:
        return f"{'-':>6}"
    return f"{_SCALE * rate:6.1f} %" + ("" if not count else f" {_interval(wilson(rate, count), '.1f')}")


def _change(old: float | None, num_old: float | None, new: float | None, num_new: float | None) -> str:
    if old is None or new is None:
        return "     -"
    interval = f" {_interval(newcombe(old, num_old, new, num_new), '+.1f')}" if num_old and num_new else ""
    return f"{_SCALE * (new - old):+6.1f}{interval}"


def _interval(ends: tuple[float, float], form: str) -> str:
    return f"[{', '.join(format(_SCALE * end, form) for end in ends)}]"
