"""Worker processes: hangs, crashes and junk end in time and harm no other caller."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from trm_envs.scoring import WorkerCrashed, WorkerLost, WorkerPool, WorkerTimeout, verify
from trm_envs.scoring import pool as pool_module
from trm_envs.scoring.pool import MATH_WORKER

# Starts in 20 ms and does what it is told.
PUPPET = """
import json, os, sys, time
print("{}", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "hang":
        while True: pass
    if request["do"] == "sleep":
        time.sleep(request["value"])
    if request["do"] == "die by":
        os.kill(os.getpid(), request["value"])
    if request["do"] == "die":
        os._exit(3)
    if request["do"] == "environment":
        request["value"] = dict(os.environ)
    print("junk" if request["do"] == "junk" else json.dumps(request), flush=True)
"""
COMMAND = (MATH_WORKER[0], "-S", "-c", PUPPET)


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(2, COMMAND)
    yield pool
    pool.close()


@pytest.mark.slow
def test_a_hanging_worker_is_killed_and_replaced(pool: WorkerPool) -> None:
    pool.call({"do": "echo"}, 5.0)
    [hanging] = pool.pids
    start = time.monotonic()
    with pytest.raises(WorkerTimeout, match=r"0\.2 s of processor time"):
        pool.call({"do": "hang"}, 0.2)
    assert time.monotonic() - start < 10.0
    assert not psutil.pid_exists(hanging)
    assert pool.call({"do": "echo", "value": 7}, 5.0)["value"] == 7
    assert len(pool.pids) == 1


@pytest.mark.slow
def test_a_hang_does_not_hold_up_other_callers(pool: WorkerPool) -> None:
    with ThreadPoolExecutor(1) as hanging:
        late = hanging.submit(pool.call, {"do": "hang"}, 1.5)
        time.sleep(0.1)
        for number in range(20):
            assert pool.call({"do": "echo", "value": number}, 5.0)["value"] == number
        assert not late.done()
        with pytest.raises(WorkerTimeout):
            late.result()


@pytest.mark.slow
def test_more_hangs_than_workers_cost_nobody_an_answer(pool: WorkerPool) -> None:
    # 4 hangs of 0.2 s on 2 workers: the honest calls behind them wait, and their own deadline has not begun.
    def call(number: int) -> int | None:
        try:
            return pool.call({"do": "hang" if number < 4 else "echo", "value": number}, 0.2)["value"]
        except WorkerTimeout:
            return None

    with ThreadPoolExecutor(24) as threads:
        results = list(threads.map(call, range(24)))
    assert results == [None] * 4 + list(range(4, 24))


def test_threads_get_their_own_replies_from_few_processes(pool: WorkerPool) -> None:
    with ThreadPoolExecutor(32) as threads:
        replies = list(threads.map(lambda number: pool.call({"do": "echo", "value": number}, 5.0), range(400)))
    assert [reply["value"] for reply in replies] == list(range(400))
    assert len(pool.pids) <= 2


@pytest.mark.parametrize(("deed", "reason"), [("die", "exit code 3"), ("junk", "not JSON")])
def test_a_crashed_worker_is_replaced(pool: WorkerPool, deed: str, reason: str) -> None:
    for _ in range(3):
        with pytest.raises(WorkerCrashed, match=reason):
            pool.call({"do": deed}, 5.0)
        assert pool.call({"do": "echo", "value": 1}, 5.0)["value"] == 1
    assert len(pool.pids) == 1


def test_an_idle_worker_that_was_killed_costs_no_answer(pool: WorkerPool) -> None:
    pool.call({"do": "echo"}, 5.0)
    os.kill(pool.pids[0], signal.SIGKILL)
    assert pool.call({"do": "echo", "value": 1}, 5.0)["value"] == 1


def kill_when_busy(pool: WorkerPool, times: int, with_signal: int = signal.SIGKILL) -> threading.Thread:
    """Kill the pool's worker a while after it has begun with a request, so many times."""

    def kill() -> None:
        for _ in range(times):
            [pid] = pool.pids
            while pid in pool.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, with_signal)
                time.sleep(0.05)

    thread = threading.Timer(0.2, kill)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_worker_killed_once_at_work_costs_no_answer() -> None:
    pool = WorkerPool(1, COMMAND)
    pool.call({"do": "echo"}, 5.0)
    killer = kill_when_busy(pool, 1)
    assert pool.call({"do": "sleep", "value": 0.6}, 5.0)["value"] == 0.6
    killer.join()
    pool.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_killed_again_and_again_are_lost_and_nobody_is_wrong(number: int) -> None:
    pool = WorkerPool(1, COMMAND)
    with pytest.raises(WorkerLost, match=f"exit code -{number}"):
        pool.call({"do": "die by", "value": number}, 5.0)
    pool.close()


def test_a_worker_that_breaks_by_itself_is_not_lost() -> None:
    pool = WorkerPool(1, COMMAND)
    with pytest.raises(WorkerCrashed) as raised:
        pool.call({"do": "die by", "value": int(signal.SIGSEGV)}, 5.0)
    assert not isinstance(raised.value, WorkerLost)
    pool.close()


@pytest.mark.slow
def test_time_without_a_processor_is_not_counted() -> None:
    # 0.6 s asleep are three deadlines of the clock and none of the processor's.
    pool = WorkerPool(1, COMMAND)
    assert pool.call({"do": "sleep", "value": 0.6}, 0.2)["value"] == 0.6
    pool.close()


@pytest.mark.slow
def test_a_worker_that_gets_no_processor_at_all_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MIN_STALL_S", 0.4)
    pool = WorkerPool(1, COMMAND)
    pool.call({"do": "echo"}, 5.0)
    with pytest.raises(WorkerLost, match="stalled"):
        pool.call({"do": "sleep", "value": 60}, 0.01)
    assert pool.call({"do": "echo", "value": 1}, 5.0)["value"] == 1
    pool.close()


def test_the_second_try_is_on_a_fresh_worker() -> None:
    # A worker that has done anything before fails; a fresh one does not.
    program = (
        "import sys\nprint('{}', flush=True)\n"
        "for number, line in enumerate(sys.stdin): print('junk' if number else line.strip(), flush=True)"
    )
    pool = WorkerPool(2, (MATH_WORKER[0], "-S", "-c", program))
    with ThreadPoolExecutor(2) as threads:
        assert len(list(threads.map(lambda number: pool.call({"value": number}, 5.0), range(8)))) == 8
    pool.close()


def test_a_worker_that_cannot_start_says_so() -> None:
    pool = WorkerPool(1, (MATH_WORKER[0], "-S", "-c", "raise SystemExit(9)"))
    with pytest.raises(WorkerCrashed, match="exit code 9"):
        pool.call({}, 5.0)
    pool.close()


def test_a_worker_retires_after_its_jobs() -> None:
    pool = WorkerPool(1, COMMAND, max_jobs=2)
    seen = []
    for _ in range(4):
        seen.append(pool.pids)
        pool.call({"do": "echo"}, 5.0)
    # none before the first job; one for jobs 1 and 2; its successor stands ready for job 3
    assert seen[0] == []
    assert seen[1] != seen[2] == seen[3]
    pool.close()


def test_close_ends_workers_and_calls_under_way_and_leaks_nothing() -> None:
    descriptors = psutil.Process().num_fds()
    pool = WorkerPool(2, COMMAND)
    with ThreadPoolExecutor(2) as threads:
        busy = threads.submit(pool.call, {"do": "hang"}, 30.0)
        pool.call({"do": "echo"}, 5.0)
        while len(pool.pids) < 2:
            pool.call({"do": "echo"}, 5.0)
        pids = pool.pids
        pool.close()
        with pytest.raises(WorkerCrashed):
            busy.result(timeout=5.0)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert psutil.Process().num_fds() <= descriptors
    with pytest.raises(RuntimeError, match="closed"):
        pool.call({"do": "echo"}, 5.0)


def test_close_wakes_those_who_wait_for_a_worker() -> None:
    pool = WorkerPool(1, COMMAND)
    raised: list[type[BaseException]] = []

    def call() -> None:
        try:
            pool.call({"do": "hang"}, 30.0)
        except (WorkerCrashed, RuntimeError) as error:
            raised.append(type(error))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    pool.close()
    for thread in threads:
        thread.join(5.0)
    assert sorted(kind.__name__ for kind in raised) == ["RuntimeError", "RuntimeError", "WorkerLost"]


def test_a_worker_sees_no_secret(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "secret")
    environment = pool.call({"do": "environment"}, 5.0)["value"]
    assert "PYTHONPATH" in environment
    assert "MY_API_KEY" not in environment


def test_a_forked_process_does_not_share_the_pool() -> None:
    parents = verify._shared_pool()
    assert verify._shared_pool() is parents
    child = os.fork()
    if child == 0:
        os._exit(0 if verify._shared_pool() is not parents else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.slow
def test_a_hanging_math_worker_without_a_parent_ends_itself() -> None:
    pytest.importorskip("math_verify")
    with subprocess.Popen(MATH_WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert json.loads(worker.stdout.readline()) == {"ready": True}
        bomb = r"\sum_{k=1}^{n} (k^{k}\cdot \sin (k))\cdot 9^{9^{9^{9}}}"
        request = {"pairs": [["equal", bomb, "x", "10", ""]], "deadline_s": 0.1}
        worker.stdin.write(json.dumps(request).encode() + b"\n")
        worker.stdin.flush()
        try:
            # the deadline and a grace of 1 s; nobody kills it
            assert worker.wait(timeout=60.0) == -signal.SIGPROF
        finally:
            worker.kill()


@pytest.mark.parametrize("field", ["size", "max_jobs"])
def test_an_empty_pool_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is 0; it must be 1 or more"):
        WorkerPool(**{"size": 1, field: 0})
