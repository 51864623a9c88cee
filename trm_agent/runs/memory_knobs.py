"""The memory's knobs of a run that is resumed: another machine may have others, and learns the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trm_agent.runs.planning.fit import COMPUTED, CONTEXT, MEMORY
from trm_agent.runs.stored_config import Changes, flatten

# the lengths stay: they decide what is sampled
NOT_COMPARED = frozenset({MEMORY, *COMPUTED, "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu"} - {CONTEXT})


def without_knobs(changes: Changes) -> Changes:
    """Return the differences of two configurations that are none of the memory's knobs."""
    return {field: values for field, values in changes.items() if field not in NOT_COMPARED}


def knob_notes(stored: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return a line on the knobs that a resumed run takes from its command; none where its folder has the same."""
    before, now = flatten(stored), flatten(config)
    found = sorted(field for field in NOT_COMPARED & before.keys() & now.keys() if before[field] != now[field])
    shown = "; ".join(f"{field}: {before[field]} -> {now[field]}" for field in found)
    return [f"how it lies in memory is of this command, not of its config.yaml: {shown}"] if found else []
