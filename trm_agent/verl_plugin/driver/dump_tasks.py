"""The choice of a dump's tasks: whole groups, the same for all ranks."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import transfer_queue as tq

from trm_agent.trust_region.dump import task_of_prompt

EXTRA, PROMPTS = "extra_fields", "prompts"


def tasks_in(batch: Any) -> list[str]:
    """Return the task of each episode of a step's batch, without padding.

    Args:
        batch: verl's keys of a partition of its queue, with tags.
    """
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=[EXTRA, PROMPTS])
    rows = zip(list(data[EXTRA]), list(data[PROMPTS]), strict=True)
    return [_task_of(extra, prompt) for extra, prompt in rows]


def chosen_tasks(tasks: Sequence[str], most: int, seed: int, step: int) -> list[str] | None:
    """Return tasks whose groups are dumped whole: in the order of a hash, as many as fit, and at least one.

    Args:
        tasks: the task of each episode.
        most: the largest number of episodes.
        seed: of the run.
        step: of the run.

    Returns:
        None for all of them.
    """
    counts: Mapping[str, int] = Counter(tasks)
    if sum(counts.values()) <= most:
        return None
    order = sorted(counts, key=lambda task: hashlib.sha256(json.dumps([seed, step, task]).encode()).digest())
    chosen, total = [order[0]], counts[order[0]]
    for task in order[1:]:
        if total + counts[task] > most:
            break
        chosen.append(task)
        total += counts[task]
    return chosen


def _task_of(extra: Any, prompt: Any) -> str:
    episode = (extra or {}).get("episode")
    return episode["task"] if episode else task_of_prompt(prompt.tolist())
