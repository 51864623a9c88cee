"""The groups of a training step: judged as they end, counted, and drawn anew where they have no signal."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import transfer_queue as tq

from trm_agent.runs.sampling_settings import STOP, SUCCESS
from trm_agent.tasks import TRAIN
from trm_agent.verl_plugin.driver.group_signal import REASONS, WORDS, Group, compared

logger = logging.getLogger("trm_agent")
# generation batches of a step between two warnings that it still lacks groups
WARN_EVERY = 5
_GO_ON_SHORT = (
    ", or set trainer.v1.sampler.sampler_kwargs.short_batch=train to go on with fewer groups where there is one"
)
_FIELDS = ("rm_scores", "extra_fields")
# an episode's reward and its summary
Told = tuple[float, Mapping[str, Any]]


class TooFewGroups(RuntimeError):
    """A step found too few groups with signal."""


@dataclass(frozen=True)
class Filter:
    """verl's `algorithm.filter_groups`, and what becomes of a batch that stays short."""

    metric: str
    """`reward` or `acc`."""
    max_batches: int
    """Generation batches of a step at most; 0 for no limit."""
    short_batch: str
    """`stop` or `train`."""
    max_failed_batches: int
    """Generation batches without a single episode before the run stops."""
    best_alone: bool = False
    """Whether the estimator compares the best two episodes of a group alone."""


class GroupWatch:
    """The groups of a step.

    Without a filter they are judged and counted. With one, a group without signal is replaced by the next task as soon
    as it ends, one for one: so, where a step waits for all of its tasks, those that are trained on are the first of the
    stream that have signal, whatever the order in which they end; none is generated in vain, and none is left out for
    its length.

    A group is of the step that takes it or leaves it out, whenever it was drawn. In an asynchronous run groups that
    have been judged may wait for a later one.

    Args:
        filter: None to replace no group.
        read: takes keys of the queue's training episodes, and returns what each tells.
    """

    def __init__(self, filter: Filter | None, read: Callable[[Sequence[str]], list[Told]] | None = None) -> None:
        self.filter = filter
        self._read = read or read_queue
        # of the step: those that it took or left out
        self.groups: dict[str, Group] = {}
        # judged, with signal where there is a filter, and taken by no step yet
        self.waiting: dict[str, Group] = {}
        self.num_drawn = self.num_refilled = self.num_ahead = self.batch_size = 0
        # of the last update
        self.num_taken = 0
        self._done: list[Group] = []

    def begin(self, batch_size: int, num_ahead: int = 0, num_drawn: int | None = None) -> None:
        """Begin a step.

        Args:
            batch_size: tasks that it is to take.
            num_ahead: tasks in play beyond these.
            num_drawn: tasks that have been drawn in it; None: as many as it is to take.
        """
        self.groups, self._done = {}, []
        self.num_drawn = batch_size if num_drawn is None else num_drawn
        self.num_refilled, self.num_ahead, self.batch_size = 0, num_ahead, batch_size

    def judge(self, ended: Iterable[str], keys: Iterable[str], masked: Iterable[Mapping[str, Any]]) -> list[str]:
        """Judge the groups that have ended since the last time.

        Args:
            ended: tasks of which every episode is over.
            keys: verl's keys of the episodes in the queue, `{task}_{session}_{index}`.
            masked: `overlong.masked_tag` of the episodes that were masked as over-long.

        Returns:
            The tasks to be replaced: those without signal, if there is a filter.
        """
        new = [uid for uid in ended if uid not in self.groups and uid not in self.waiting]
        rows: dict[str, list[str]] = defaultdict(list)
        wanted = set(new)
        for key in keys:
            if (uid := key.split("_")[0]) in wanted:
                rows[uid].append(key)
        asked = [key for uid in new for key in rows[uid]]
        told = dict(zip(asked, self._read(asked), strict=True)) if asked else {}
        of_task: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for tag in masked:
            # a key is in verl's queue before its tag; of a group that has ended all have one
            if "uid" in tag:
                of_task[tag["uid"]].append(tag)
        for uid in new:
            group = _group([told[key] for key in rows[uid]], of_task[uid], self.filter)
            if self.filter and group.lacks_signal():
                self._end(uid, group)
            else:
                self.waiting[uid] = group
        return [uid for uid in new if uid in self.groups]

    def take(self, uids: Sequence[str]) -> None:
        """Note the tasks that an update takes, all of them judged."""
        self.num_taken = len(uids)
        for uid in uids:
            self._end(uid, self.waiting.pop(uid))

    def lose(self, uids: Iterable[str]) -> None:
        """Note tasks that no step takes: too old, or failed in a run without a filter."""
        self._done += [self.waiting.pop(uid) for uid in uids if uid in self.waiting]

    def drain(self) -> list[Group]:
        """Return the groups of the step that were taken, left out or lost since the last call, each of them once."""
        done, self._done = self._done, []
        return done

    def allowed(self, wanted: int) -> int:
        """Return how many of the wanted tasks may still be drawn in this step."""
        limit = self.filter.max_batches * self.batch_size if self.filter else 0
        return min(wanted, limit - self.num_drawn) if limit else wanted

    def add_drawn(self, number: int, step: int) -> None:
        """Count tasks that are drawn in place of others; now and then it warns."""
        every = WARN_EVERY * self.batch_size
        if self.num_drawn // every < (self.num_drawn + number) // every:
            logger.warning("step %d: %s", step, self.told())
        self.num_drawn += number
        self.num_refilled += number

    def is_broken(self) -> bool:
        """Return True if several generation batches have ended without a single episode to train on."""
        least = self.filter.max_failed_batches * self.batch_size if self.filter else 0
        found = self._found()
        return 0 < least <= len(found) and not any(group.values for group in found)

    def check_short(self, step: int) -> None:
        """Raise if a step that may draw no further task stays short and the run is to stop then.

        Raises:
            TooFewGroups: with what was found.
        """
        assert self.filter is not None, "only a filter leaves groups out"
        if self.filter.short_batch != STOP and self.waiting:
            return
        raise TooFewGroups(
            f"step {step}: {self.told()}; raise algorithm.filter_groups.max_num_gen_batches="
            f"{self.filter.max_batches} (0: no limit), choose tasks that succeed sometimes (env.train.horizons), or "
            f"raise actor_rollout_ref.rollout.n{_GO_ON_SHORT if self.filter.short_batch == STOP else ''}"
        )

    @property
    def num_with_signal(self) -> int:
        """Return how many groups have signal so far, those that wait included."""
        return sum(group.lacks_signal() is None for group in self._found())

    def told(self) -> str:
        """Return the step's groups in words."""
        reasons = self._reasons()
        without = ", ".join(f"{reasons[name]} {WORDS[name]}" for name in REASONS if reasons[name])
        ahead = f", and {self.num_ahead} that were ahead" if self.num_ahead else ""
        return (
            f"{self.num_with_signal} of {self.batch_size} groups have signal after {self.num_drawn} tasks, "
            f"{self.num_drawn / max(1, self.batch_size):g} generation batches{ahead}; without: {without or 'none'}"
        )

    def metrics(self) -> dict[str, float]:
        """Return the counts of a step with a filter; empty without one."""
        if self.filter is None:
            return {}
        reasons = self._reasons()
        found = {
            "env/groups/drawn": float(self.num_drawn),
            "env/groups/refilled": float(self.num_refilled),
            "env/groups/generation_batches": self.num_drawn / self.batch_size,
            "env/groups/with_signal": float(len(self.groups) - sum(reasons.values())),
            "env/groups/without_signal": float(sum(reasons.values())),
        }
        return found | {f"env/groups/without_signal/{name}": float(reasons[name]) for name in REASONS}

    def left_out(self) -> list[Group]:
        """Return the groups that were replaced for want of signal."""
        return [group for group in self.groups.values() if self.filter and group.lacks_signal()]

    def _end(self, uid: str, group: Group) -> None:
        self.groups[uid] = group
        self._done.append(group)

    def _found(self) -> list[Group]:
        return [*self.groups.values(), *self.waiting.values()]

    def _reasons(self) -> Counter[str]:
        found = (group.lacks_signal() for group in self.groups.values())
        return Counter(reason for reason in found if reason)


def read_queue(keys: Sequence[str]) -> list[Told]:
    """Return reward and summary of training episodes in verl's queue."""
    data = tq.kv_batch_get(keys=list(keys), partition_id=TRAIN, select_fields=list(_FIELDS))
    rewards, fields = list(data[_FIELDS[0]]), list(data[_FIELDS[1]])
    return [(float(reward.double().sum()), extra["episode"]) for reward, extra in zip(rewards, fields, strict=True)]


def _group(told: Sequence[Told], masked: Sequence[Mapping[str, Any]], filter: Filter | None) -> Group:
    summaries = [summary for _, summary in told]
    by_success, best_alone = (filter.metric == SUCCESS, filter.best_alone) if filter else (False, False)
    successes = [bool(item["success"]) for item in summaries]
    return Group(
        horizon=next((item["horizon"] for item in [*summaries, *masked]), None),
        values=compared([reward for reward, _ in told], successes, by_success, best_alone),
        successes=successes,
        num_tokens=sum(item["model_tokens"] for item in summaries),
        num_masked=len(masked),
    )
