"""Skill against sharper sampling: greedy validation and how sure the policy is, early and late."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trm_agent.report.account import sides
from trm_agent.report.changes import welch
from trm_agent.report.curves import number
from trm_agent.report.sources import Source
from trm_agent.runs.rates import newcombe

GREEDY = re.compile(r"env/val_success/greedy_h[0-9]{1,18}")
_SAMPLED = re.compile(r"env/val_success/h[0-9]{1,18}")
SHARPER = (
    "Sharper sampling alone (the same preferences, held more firmly) would make the policy surer and leave its "
    "likeliest answers, which greedy play takes, as they are."
)


def skill_sentences(source: Source, steps: Sequence[Mapping[str, Any]], direction: int) -> list[str]:
    """Return what the run tells of skill and of sharper sampling.

    Args:
        source: a run.
        steps: the rows of its metrics that tell a success.
        direction: 1 where success rose, -1 where it fell, 0 where neither is distinguishable from chance.
    """
    return [*filter(None, (_sureness(steps), *_greedy(source, direction)))]


def _sureness(steps: Sequence[Mapping[str, Any]]) -> str:
    first, last = sides(steps)
    old, new = (
        [value for row in side if (value := number(row.get("env/token_nll"))) is not None] for side in (first, last)
    )
    if min(len(old), len(new)) < 2:
        return ""
    difference, low, high = welch(old, new)
    if low <= 0 <= high:
        how = "The policy became neither surer nor less sure, as far as chance lets one see"
    else:
        how = f"The policy became {'surer' if difference < 0 else 'less sure'}"
    before, after = math.fsum(old) / len(old), math.fsum(new) / len(new)
    return (
        f"{how}: the mean -log p of its sampled tokens went from {before:.3f} to {after:.3f} nats "
        f"({difference:+.3f} [{low:+.3f}, {high:+.3f}])."
    )


def _greedy(source: Source, direction: int) -> list[str]:
    form = _SAMPLED if _temperature(source) == 0 else GREEDY
    rows = [row for row in source.metrics if _pooled(source, row, form) is not None]
    if not rows:
        return [
            "This run validated by sampling alone, so better skill and sharper sampling cannot be told apart here; "
            "env.val.greedy_tasks=64 has the next run validate greedily as well."
        ]
    if len(rows) < 2:
        return ["Greedy validation was measured once, so skill and sharper sampling cannot be told apart yet."]
    ends = rows[0], rows[-1]
    greedy, sampled = _moved(source, ends, form), _moved(source, ends, _SAMPLED)
    told = f"Greedy validation, in which the policy always takes its likeliest token, went {_told(greedy, ends)}"
    if form is _SAMPLED or sampled is None:
        return [*filter(None, (f"{told}.", _verdict(greedy, None, direction)))]
    gap, low, high = (100 * value for value in _excess(greedy, sampled))
    old, new = (100 * (greedy_rate - rate) for greedy_rate, rate in zip(greedy.rates, sampled.rates, strict=True))
    between = (
        f"Greedy play was ahead of sampled play by {old:.1f} points before and {new:.1f} after "
        f"({-gap:+.1f} [{-high:+.1f}, {-low:+.1f}])."
    )
    both = f"{told}; sampled validation of the same horizons {_told(sampled, ends)}. {between}"
    return [*filter(None, (both, _verdict(greedy, sampled, direction)))]


@dataclass(frozen=True)
class _Moved:
    """The change of a validation's success, shares of 1."""

    before: float
    after: float
    low: float
    high: float
    num_tasks: float

    @property
    def rates(self) -> tuple[float, float]:
        return self.before, self.after

    @property
    def difference(self) -> float:
        return self.after - self.before


def _verdict(greedy: _Moved, sampled: _Moved | None, direction: int) -> str:
    """Return what greedy validation says of a change of the sampled episodes' success."""
    if direction == 0:
        return ""
    low = greedy.low if direction > 0 else -greedy.high
    way, gains = ("rose", "sharper") if direction > 0 else ("fell", "less sharp")
    if low > 0:
        return f"{SHARPER} So skill {way}, and not the sharpness of sampling alone."
    if sampled is not None:
        excess, least, most = (100 * direction * value for value in _excess(greedy, sampled))
        ends = f"[{min(least, most):.1f}, {max(least, most):.1f}]"
        if min(least, most) > 0:
            return (
                f"{SHARPER} Sampled play {way} {excess:.1f} points {ends} more than greedy play: that much is {gains} "
                f"sampling. That skill {way} is not shown."
            )
    return (
        f"Chance may explain the change of greedy play, so this run does not show whether skill {way} or sampling only "
        f"became {gains}."
    )


def _excess(greedy: _Moved, sampled: _Moved) -> tuple[float, float, float]:
    """Return by how much more sampled play changed, with its 95 % interval from those of both changes."""
    middle = sampled.difference - greedy.difference
    low = math.hypot(sampled.difference - sampled.low, greedy.high - greedy.difference)
    high = math.hypot(sampled.high - sampled.difference, greedy.difference - greedy.low)
    return middle, middle - low, middle + high


def _moved(source: Source, ends: Sequence[Mapping[str, Any]], form: re.Pattern[str]) -> Any:
    pooled = [_pooled(source, row, form) for row in ends]
    if None in pooled:
        return None
    (old, num_old), (new, num_new) = pooled  # type: ignore[misc]
    return _Moved(old, new, *newcombe(old, num_old, new, num_new), num_new)


def _told(moved: _Moved, ends: Sequence[Mapping[str, Any]]) -> str:
    first, last = (row.get("step") for row in ends)
    return (
        f"from {100 * moved.before:.1f} % (step {first}) to {100 * moved.after:.1f} % (step {last}), "
        f"{100 * moved.difference:+.1f} points [{100 * moved.low:+.1f}, {100 * moved.high:+.1f}] over "
        f"{moved.num_tasks:.0f} tasks"
    )


def _pooled(source: Source, row: Mapping[str, Any], form: re.Pattern[str]) -> tuple[float, float] | None:
    """Return the success of all horizons together, and the number of tasks."""
    successes = tasks = 0.0
    for name in filter(form.fullmatch, row):
        rate, num = number(row[name]), source.num_tasks(row.get(name.replace("val_success", "val_num_episodes")))
        if rate is None or num is None or not 0 <= rate <= 1:
            return None
        successes, tasks = successes + rate * num, tasks + num
    return (successes / tasks, tasks) if tasks else None


def _temperature(source: Source) -> Any:
    found: Any = source.config
    for name in ("actor_rollout_ref", "rollout", "val_kwargs", "temperature"):
        found = found.get(name) if isinstance(found, dict) else None
    return found
