"""Group advantages that are 0 in a group with nothing to compare.

verl's group estimators give the only episode of a group its raw reward as advantage (`grpo_passk` raises), and turn the
rounding of equal fractional rewards into advantages of up to 0.15, since they divide a rounded difference by a rounded
deviation.
Here a group with fewer than two episodes, and one whose rewards are equal, has advantage 0.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from verl.protocol import DataProto
from verl.trainer.ppo.v1 import trainer_base

from trm_agent.runs.estimators import GROUP_ESTIMATORS
from trm_agent.runs.screen import EQUAL_GROUPS
from trm_agent.verl_plugin.cpu.patches import VERL_VERSION, require_version

GROUPS_WITHOUT_BASELINE = "env/groups_without_baseline"
# verl's function, in the namespace of its trainer
_FUNCTION = "compute_advantage_for_multi_trajectories"


def comparable_groups(uids: Sequence[str], episodes: Sequence[str], is_padding: Sequence[bool]) -> dict[str, list[int]]:
    """Return the groups with two episodes or more.

    Args:
        uids: the task of each row.
        episodes: the episode of each row; an episode may have several.
        is_padding: rows that verl added to divide the batch evenly; they belong to no group.

    Returns:
        Task -> its rows.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, uid in enumerate(uids):
        if not is_padding[row]:
            rows[uid].append(row)
    return {uid: found for uid, found in rows.items() if len({episodes[row] for row in found}) > 1}


def equal_rewards(token_level_rewards: torch.Tensor) -> bool:
    """Return True if all episodes have exactly the same reward, summed in float64 so that no real difference is lost.

    Args:
        token_level_rewards: shape (rows, response_length).
    """
    totals = token_level_rewards.double().sum(dim=-1)
    return bool((totals == totals[0]).all())


def without_rounding(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, rows: Sequence[int]
) -> torch.Tensor:
    """Return the rewards with 1 in place of each nonzero reward of the given rows.

    The mean of ones is 1 without rounding, and an estimator that counts nonzero rewards (`gpg`) counts the same.

    Args:
        token_level_rewards, response_mask: shape (batch, response_length).
        rows: the rows of groups with equal rewards.
    """
    exact = token_level_rewards.clone()
    for row in rows:
        is_paid = bool(token_level_rewards[row].double().sum() != 0)
        exact[row] = 0.0
        exact[row, response_mask[row].argmax()] = float(is_paid)
    return exact


def group_advantages(
    compute: Callable[..., DataProto],
    data: DataProto,
    batch_keys: Sequence[str],
    is_padding: Sequence[bool],
    adv_estimator: str,
    **options: Any,
) -> DataProto:
    """Compute the advantages of comparable groups; all other rows have 0.

    The estimator sees only rows of groups with two episodes or more, so that its statistics over the batch (the
    whitening of `reinforce_plus_plus_baseline` and `gdpo`, the scale of `gpg`) are theirs alone. Groups of equal
    rewards are among them, with rewards that do not round, so that their rounding moves no other group either; their
    advantages are set to 0 in the end.

    Args:
        compute: verl's `compute_advantage_for_multi_trajectories`.
        data: verl's batch with `token_level_rewards` and `response_mask`, shape (batch, response_length), and `uid`.
        batch_keys: verl's keys of the rows, `{task}_{session}_{index}`.
        is_padding: see `comparable_groups`.
        adv_estimator: verl's name; an estimator outside `GROUP_ESTIMATORS` is left to verl.
        options: verl's further arguments.

    Returns:
        The batch with `advantages` and `returns`.
    """
    if _name(adv_estimator) not in GROUP_ESTIMATORS:
        return compute(data, batch_keys=list(batch_keys), adv_estimator=adv_estimator, **options)
    episodes = [key.rpartition("_")[0] for key in batch_keys]
    groups = comparable_groups(data.non_tensor_batch["uid"].tolist(), episodes, is_padding)
    rows = sorted(row for group in groups.values() for row in group)
    mask = data.batch["response_mask"]
    found = {name: torch.zeros(mask.shape, dtype=torch.float32) for name in ("advantages", "returns")}
    rewards = data.batch["token_level_rewards"]
    equal = sorted(row for group in groups.values() if equal_rewards(rewards[group]) for row in group)
    if rows and bool(mask[rows].any()):
        keys = [batch_keys[row] for row in rows]
        part = data.select_idxs(np.array(rows))
        part.batch["token_level_rewards"] = without_rounding(rewards, mask, equal)[rows]
        part = compute(part, batch_keys=keys, adv_estimator=adv_estimator, **options)
        for name, values in found.items():
            found[name] = values.to(part.batch[name].dtype).index_copy_(0, torch.tensor(rows), part.batch[name])
    for values in found.values():
        values[equal] = 0.0
    for name, values in found.items():
        data.batch[name] = values
    return data


@contextmanager
def with_group_advantages(
    tags: Sequence[Mapping[str, Any]], metrics: dict[str, float], num_tasks: int
) -> Iterator[set[str]]:
    """Let verl's trainer compute advantages by `group_advantages` inside the block.

    verl's trainer has no hook for another function, so the name in its module refers to ours inside this block.

    Args:
        tags: verl's tags of the rows.
        metrics: of the step; they get the share of groups with nothing to learn from.
        num_tasks: number of tasks drawn for the batch.

    Yields:
        The keys of the rows whose advantages are all 0, once they are computed.

    Raises:
        RuntimeError: a version of verl that this was not written for.
    """
    require_version("group_advantages", "verl", VERL_VERSION)
    compute = getattr(trainer_base, _FUNCTION)
    is_padding = [bool(tag.get("is_padding", False)) for tag in tags]
    zero: set[str] = set()

    def ours(data: DataProto, batch_keys: Sequence[str], adv_estimator: str, **options: Any) -> DataProto:
        metrics.update(equal_groups(data, batch_keys, is_padding, num_tasks, adv_estimator))
        data = group_advantages(compute, data, batch_keys, is_padding, adv_estimator, **options)
        of_rows = zip(batch_keys, data.batch["advantages"], strict=True)
        zero.update(key for key, advantages in of_rows if not advantages.any())
        return data

    setattr(trainer_base, _FUNCTION, ours)
    try:
        yield zero
    finally:
        setattr(trainer_base, _FUNCTION, compute)


def groups_without_baseline(
    keys: Sequence[str], tags: Sequence[Mapping[str, Any]], num_tasks: int, adv_estimator: str
) -> dict[str, float]:
    """Count the groups with fewer than two episodes, those without any included.

    Args:
        keys: verl's keys of the rows.
        tags: their tags.
        num_tasks: number of tasks drawn for the batch.
        adv_estimator: verl's name.

    Returns:
        The metric; empty if the estimator needs no groups.
    """
    if _name(adv_estimator) not in GROUP_ESTIMATORS:
        return {}
    uids, episodes = [key.rsplit("_", 2)[0] for key in keys], [key.rpartition("_")[0] for key in keys]
    groups = comparable_groups(uids, episodes, [bool(tag.get("is_padding", False)) for tag in tags])
    return {GROUPS_WITHOUT_BASELINE: float(num_tasks - len(groups))}


def equal_groups(
    data: DataProto, batch_keys: Sequence[str], is_padding: Sequence[bool], num_tasks: int, adv_estimator: str
) -> dict[str, float]:
    """Return the share of a batch's tasks whose episodes do not differ in reward, those without a baseline included.

    Args:
        data, batch_keys, is_padding, adv_estimator: as for `group_advantages`.
        num_tasks: number of tasks drawn for the batch.

    Returns:
        The metric; empty if the estimator needs no groups.
    """
    if _name(adv_estimator) not in GROUP_ESTIMATORS:
        return {}
    episodes = [key.rpartition("_")[0] for key in batch_keys]
    groups = comparable_groups(data.non_tensor_batch["uid"].tolist(), episodes, is_padding)
    num_unequal = sum(not equal_rewards(data.batch["token_level_rewards"][rows]) for rows in groups.values())
    return {EQUAL_GROUPS: 1 - num_unequal / num_tasks}


def _name(adv_estimator: str) -> str:
    """Return the name of a member of verl's enumeration, or a plain name."""
    return str(getattr(adv_estimator, "value", adv_estimator))
