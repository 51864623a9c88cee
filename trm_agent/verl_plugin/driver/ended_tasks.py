"""What agent loops told of single episodes, read once their tasks have left the queue."""

from typing import Any

import transfer_queue as tq

from trm_agent.tasks import TRAIN


def take_ended(partition_id: str) -> list[dict[str, Any]]:
    """Read and clear the tags of training episodes whose tasks have left the queue since the last call.

    A task leaves it when a step trains on it, leaves it out or drops it; the tags of one in play stay.

    Args:
        partition_id: with a tag for each episode, that names its task as `uid`.
    """
    rows = (tq.kv_list(partition_id) or {}).get(partition_id, {})
    in_play = (tq.kv_list(TRAIN) or {}).get(TRAIN, {}) if rows else {}
    # a key is in verl's queue before its tag
    rows = {key: tag for key, tag in rows.items() if "uid" in tag and tag["uid"] not in in_play}
    if rows:
        tq.kv_clear(keys=list(rows), partition_id=partition_id)
    return list(rows.values())
