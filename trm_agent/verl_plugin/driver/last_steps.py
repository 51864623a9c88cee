"""For how many tasks an update waits, so that none is trained on after the last step that its age allows."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet


def num_awaited(
    last_steps: Mapping[str, int], done: AbstractSet[str], *, step: int, size: int, left: int, wanted: int
) -> int:
    """Return how many old tasks have yet to be done before an update may take the oldest that are.

    Of the tasks in play let N(d) be those whose last step is d or an earlier one. They have places as long as

        N(d) <= left + size * (d - step)   for every d from this step on.

    An update leaves `left - wanted` places in its step, so it has to take at least

        needed(d) = N(d) - (left - wanted) - size * (d - step)

    of them if the others are to have places then. It takes the oldest first, and so it does once that many are done.

    *It waits for nothing that does not come.* needed(d) is at most N(d), so what is awaited is being played, and each
    episode has its limits. A task that fails or has no signal leaves, which makes N(d) smaller.

    *All have places, always.* A task that is drawn in a step has the last step d = step + threshold - 1, and the
    places up to that are left + size * (threshold - 1), while at most left + size * num_warmup_batches tasks are in
    play: a threshold of 1 + num_warmup_batches or more, as the checks demand, has room for all of them. A task in the
    place of another is drawn for that one. An update keeps the others' places, as above; needed(d) is then at most
    `wanted`, so that it can. The next step begins with left = size, which is the same condition. A resumed run draws
    the tasks that were in play anew, in the step in which it goes on, and they are no more than those ahead.

    *It waits no longer than it has to.* With fewer of them, more than the places are left, and one comes too late
    unless it fails.

    Args:
        last_steps: of the tasks in play, done or not, the last step that may train on each.
        done: those of them that can be trained on.
        step: that is made.
        size: tasks that a step takes.
        left: those that this step has yet to take, the update's own among them.
        wanted: tasks that the update takes.
    """
    awaited = 0
    for last in set(last_steps.values()):
        old = {task for task, each in last_steps.items() if each <= last}
        # beyond its last step, which settings that were not checked can lead to, a task is waited for all the same
        needed = len(old) - (left - wanted) - size * max(0, last - step)
        awaited = max(awaited, needed - len(old & done))
    return awaited
