"""Waits for a place, in every sandbox: charged to nobody, and known while they last."""

import threading
import time
from typing import Any

import pytest

from tests.envs.env_support import SLEEP
from tests.envs.fusion_support import running_server
from tests.envs.sandbox_support import needs_bubblewrap
from trm_envs.metered import Metered
from trm_envs.sandbox import Limits, LocalSandbox, Result, Status
from trm_envs.sandbox.fusion.sandbox import FusionSandbox
from trm_envs.tool_time import ToolTime


def run_all(runs: list[Any]) -> list[Result]:
    """Run all at once, each in a thread."""
    results: list[Any] = [None] * len(runs)

    def put(number: int) -> None:
        results[number] = runs[number]()

    threads = [threading.Thread(target=put, args=(number,)) for number in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def timed(runner: Any, meter: ToolTime, code: str) -> Result:
    with meter.turn():
        return Metered(lambda: runner, meter).run(code, limits=Limits(wall_s=5))


@needs_bubblewrap
@pytest.mark.slow
def test_a_wait_for_a_place_in_the_local_sandbox_is_not_charged() -> None:
    meters = [ToolTime() for _ in range(4)]
    for meter in meters:
        meter.set_limits(1.5, None)  # less than four times 0.4 s
    with LocalSandbox(max_concurrent=1) as sandbox:
        results = run_all(
            [lambda meter=meter: timed(sandbox, meter, "import time; time.sleep(0.4)") for meter in meters]
        )
    assert [result.status for result in results] == [Status.OK] * 4
    assert all(0.4 <= meter.used_s() < 1.5 for meter in meters)
    assert max(meter.waited_s() for meter in meters) >= 1.0  # the last one waited for three others


@pytest.mark.slow
@needs_bubblewrap
def test_a_wait_for_a_place_is_known_while_it_lasts() -> None:
    meter = ToolTime()
    with LocalSandbox(max_concurrent=1) as sandbox:
        other = threading.Thread(target=lambda: sandbox.run("import time; time.sleep(1.5)"))
        waiter = threading.Thread(target=lambda: timed(sandbox, meter, "1"))
        other.start()
        time.sleep(0.2)
        waiter.start()
        while meter.waited_s() < 0.3:
            assert waiter.is_alive() or not waiter.ident
            time.sleep(0.01)
        assert meter.used_s() < 0.1
        waiter.join()
        other.join()


@pytest.mark.slow
@needs_bubblewrap
def test_a_wait_in_a_servers_queue_is_neither_charged_nor_held_against_the_answers_deadline() -> None:
    meters = [ToolTime() for _ in range(4)]
    limits = Limits(wall_s=1.5)
    with (
        LocalSandbox(max_concurrent=1) as local,
        running_server(local) as address,
        FusionSandbox(address, retries=0, margin_s=0.4) as sandbox,
    ):
        assert sandbox.run("1").ok

        def once(meter: ToolTime) -> Result:
            with meter.turn():
                return Metered(lambda: sandbox, meter).run("import time; time.sleep(0.8)", limits=limits)

        started = time.monotonic()
        results = run_all([lambda meter=meter: once(meter) for meter in meters])
        whole_s = time.monotonic() - started
    # each answer has 1.9 s, the last one waits for longer than that
    assert whole_s > 3.0
    assert [result.status for result in results] == [Status.OK] * 4
    assert all(0.8 <= meter.used_s() < 1.5 for meter in meters)
    assert max(meter.waited_s() for meter in meters) > 2.0


@needs_bubblewrap
def test_a_session_over_http_is_held_to_what_is_left_though_earlier_cells_had_more() -> None:
    with LocalSandbox(max_concurrent=2) as local, running_server(local) as address, FusionSandbox(address) as sandbox:
        session = sandbox.session()
        assert session.run("x = 1", limits=Limits(wall_s=5)).ok
        started = time.monotonic()
        result = session.run(SLEEP, limits=Limits(wall_s=0.3))
        assert (result.status, result.state_lost) == (Status.TIMEOUT, True)
        assert time.monotonic() - started < 3
