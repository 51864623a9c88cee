"""Runs of both asynchronous modes are killed in each phase of a step, and resumed: minutes each."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.staleness import jobs
from benchmarks.staleness_job import KILLS, WORKLOADS, Episode, Job, Kill, Result
from benchmarks.staleness_kills import FIRST, LAST
from benchmarks.staleness_runs import make_run
from benchmarks.staleness_tables import aftermath

JOBS = list(jobs([KILLS], [0], None, 1000, "test"))
WORK = WORKLOADS[KILLS]


def assert_nothing_is_lost(run: Result) -> None:
    """A run that was killed has done what one does that was not."""
    left, steps = aftermath(run), run.job.steps
    assert FIRST <= left.kill.step <= LAST
    # the step in which it was killed is made again, from the checkpoint of the one before
    assert left.kill.resumed_after == left.kill.step - 1
    assert left.steps == tuple(range(1, steps + 1))
    assert (left.audit.twice, left.audit.lost, left.audit.lacking) == ((), (), 0)
    assert left.tasks == steps * WORK.tasks


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("job", JOBS, ids=[job.side for job in JOBS])
def test_a_killed_run_goes_on_after_its_checkpoint_and_trains_on_each_task_once(job: Job, tmp_path: Path):
    # one that is not killed in its phase raises; the limit holds for its start and for its end
    assert_nothing_is_lost(make_run(job, tmp_path / "kill", timeout_s=400))


def made_up(steps: int = 8) -> Result:
    """A run that was killed and lost nothing."""
    rows = tuple({"step": step, "timing_s/step": 1.0} for step in range(1, steps + 1))
    episodes = tuple(
        Episode(1 + task // WORK.tasks, task % WORK.tasks, task, WORK.horizons[task % 2], 2, 40, 1.0)
        for task in range(steps * WORK.tasks)
        for _ in range(WORK.group)
    )
    return Result(JOBS[0], rows, episodes, kill=Kill(3, 2, too_late=0))


WHOLE = made_up()
FAULTS = {
    "a step is told twice": replace(WHOLE, rows=(*WHOLE.rows, WHOLE.rows[2])),
    "a step is not told": replace(WHOLE, rows=(*WHOLE.rows[:2], *WHOLE.rows[3:])),
    "the last step is missing": made_up(7),
    "a task is in two steps": replace(WHOLE, episodes=(*WHOLE.episodes, replace(WHOLE.episodes[0], step=4))),
    "a task is in two updates": replace(WHOLE, episodes=(*WHOLE.episodes, replace(WHOLE.episodes[0], update=1))),
    "a task is lost": replace(WHOLE, episodes=tuple(each for each in WHOLE.episodes if each.task != 5)),
    "an episode is lacking": replace(WHOLE, episodes=WHOLE.episodes[1:]),
    "an older checkpoint": replace(WHOLE, kill=Kill(4, 2, too_late=0)),
    "no checkpoint yet": replace(WHOLE, kill=Kill(2, 1, too_late=0)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_killed_run_is_found(fault: str):
    assert_nothing_is_lost(WHOLE)
    with pytest.raises(AssertionError):
        assert_nothing_is_lost(FAULTS[fault])
