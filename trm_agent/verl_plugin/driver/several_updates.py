"""The metrics of a step that has several updates, each on a batch of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trm_agent.trust_region.adaptive import TARGET_THRESHOLDS
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.verl_plugin.actor.ratios import Ratios, joined
from trm_agent.verl_plugin.actor.update import EXTREMES, PREFIX, named_ratios
from trm_agent.verl_plugin.driver.advantages import GROUPS_WITHOUT_BASELINE
from trm_agent.verl_plugin.driver.async_buffer import EVICTED, EVICTED_BY_LENGTH, STALE_WAIT

OURS = ("trm/", "env/", "run/")
# seconds and numbers of a step are those of all its updates
SUMS = frozenset({STALE_WAIT, GROUPS_WITHOUT_BASELINE})
# thresholds that adapt go on from the last update
THRESHOLDS = frozenset(TARGET_THRESHOLDS.values()) | {
    f"{PREFIX}{row.thresholds[0].name}" for row in CRITERIA.values() if row.limits
}
# what was dropped is counted over the step
LAST = THRESHOLDS | {EVICTED, *EVICTED_BY_LENGTH}


def over_updates(updates: Sequence[Mapping[str, Any]], ratios: Sequence[Ratios] = ()) -> dict[str, float]:
    """Return our metrics of a step: means over its updates, as with several mini-batches of one batch.

    verl takes the maximum of every name that contains "max", a mean such as `trm/rejected_by_max` included.

    Args:
        updates: the metrics of each.
        ratios: the sums of each, for the numbers of parts of updates (a lag, a span, a depth, a turn, a sign), which
            are made of the sums over all.

    Returns:
        Those that are ours; of an update that lacks one without sums, nothing counts.
    """
    names = dict.fromkeys(name for update in updates for name in update if name.startswith(OURS))
    found = {name: [float(update[name]) for update in updates if name in update] for name in names}
    return {name: _rule(name)(values) for name, values in found.items()} | named_ratios(joined(ratios))


def _rule(name: str) -> Callable[[Sequence[float]], float]:
    if name in SUMS:
        return sum
    if name in LAST:
        return lambda values: values[-1]
    if name.removeprefix(PREFIX) in EXTREMES:
        return min if name.endswith("_min") else max
    return lambda values: sum(values) / len(values)
