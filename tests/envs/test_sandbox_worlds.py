"""Each call has a world of its own: nothing of another one is seen, opened, waited for or used up."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.envs.fusion_support import running_server
from tests.envs.sandbox_attacks_flight import BURSTS, FEW_IN_FLIGHT, FEW_PIPES, FLIGHTS, PIPES
from tests.envs.sandbox_attacks_mappings import FROM_MANY_SIDES, IN_ONE_MEMORY, OF_ONE_AND_OF_TWO
from tests.envs.sandbox_attacks_supervisor import (
    CLOSED,
    CONNECTIONS,
    DESCRIPTORS,
    EPOLLS,
    HONEST,
    HONEST_PRINTS,
    LINGERS,
    LINGERS_ON,
    LOCKS_OF_THREADS,
    MORE_CONNECTIONS,
    NAMES,
    SMALL_MAPPINGS,
    TEXTS,
)
from tests.envs.sandbox_attacks_worlds import (
    FIND_LEFT,
    FOUND,
    LEFT,
    MANY_LOCKS,
    MEETINGS,
    SQLITE,
    SQLITE_PRINTS,
    SWAP,
    SWAP_AND_DIE,
    WATCHES,
    Meeting,
)  # fmt: skip
from tests.envs.sandbox_settings import Setting, opened, setting  # noqa: F401
from tests.envs.sandbox_support import TIGHT, needs_bubblewrap
from trm_envs.sandbox import LocalSandbox, Status
from trm_envs.sandbox.fusion.sandbox import FusionSandbox
from trm_envs.sandbox.guest.isolation import CLOSED_CONNECTIONS
from trm_envs.sandbox.guest.questions import MAX_LOCKS, MAX_WATCHES

pytestmark = pytest.mark.slow
ROOMY = dataclasses.replace(TIGHT, wall_s=10.0)


def test_two_sessions_meet_nowhere(setting: Setting) -> None:  # noqa: F811
    for name, meeting in MEETINGS.items():
        with setting.session() as first, setting.session() as second:
            held = first.run(meeting.first, limits=ROOMY)
            assert held.ok, (name, held)
            found = second.run(meeting.second, limits=ROOMY)
        assert (found.stdout, found.stderr) == (meeting.expected, ""), name


@needs_bubblewrap
def test_two_clients_meet_nowhere() -> None:
    meetings = dict(list(MEETINGS.items())[::4])
    pauses_s = [5, 20]  # the second where others had the processors, and the first was over too soon
    while not _meet(meetings, pauses_s.pop(0)):
        assert pauses_s


def _meet(meetings: dict[str, Meeting], pause_s: float) -> bool:
    """Have two clients meet nowhere; return True if the first one held all that it had to the end."""
    wait = f"\nprint('held', flush=True)\ntime.sleep({pause_s})"
    limits = dataclasses.replace(ROOMY, wall_s=pause_s + 10)
    with (
        LocalSandbox(ROOMY, max_concurrent=len(meetings) + 1) as local,
        running_server(local) as address,
        FusionSandbox(address, limits=limits, max_concurrent=len(meetings)) as first,
        FusionSandbox(address, limits=ROOMY) as second,
        ThreadPoolExecutor(len(meetings)) as threads,
    ):
        holding = [threads.submit(first.run, meeting.first + wait) for meeting in meetings.values()]
        time.sleep(1)
        found = {name: second.run(meeting.second).stdout for name, meeting in meetings.items()}
        are_held = [call.running() for call in holding]
        assert all("held\n" in call.result().stdout for call in holding)
    assert found == {name: meeting.expected for name, meeting in meetings.items()}
    return all(are_held)


def test_a_call_leaves_nothing_to_the_next(setting: Setting) -> None:  # noqa: F811
    for name, code in LEFT.items():
        result = setting.run(code, limits=ROOMY)
        assert result.ok, (name, result)
        assert setting.run(FIND_LEFT, limits=ROOMY).stdout == FOUND, name


def test_locks_of_the_working_folder_are_as_everywhere(setting: Setting) -> None:  # noqa: F811
    with setting.session() as session:
        for result in (setting.run(SQLITE, limits=ROOMY), session.run(SQLITE, limits=ROOMY)):
            assert (result.stdout, result.stderr) == (SQLITE_PRINTS, "")


def test_a_lock_that_was_gained_by_a_trick_ends_the_program(setting: Setting) -> None:  # noqa: F811
    result = setting.run(SWAP, limits=ROOMY)
    assert (result.status, result.return_code) == (Status.ERROR, -9), result


def test_a_lock_of_a_dead_owner_ends_the_program(setting: Setting) -> None:  # noqa: F811
    assert "held" not in setting.run(SWAP_AND_DIE, limits=ROOMY).stdout


def test_a_call_holds_so_many_locks_and_no_more(setting: Setting) -> None:  # noqa: F811
    *why, number = setting.run(MANY_LOCKS, limits=ROOMY).stdout.split()
    assert " ".join(why) == "No locks available"
    assert MAX_LOCKS <= int(number) < MAX_LOCKS + 100


def test_locks_are_counted_seldom_while_there_are_many(setting: Setting) -> None:  # noqa: F811
    result = setting.run(LOCKS_OF_THREADS, limits=ROOMY)
    assert result.stdout == "200 No locks available\n800\n", result


def test_a_call_adds_so_many_watches_and_no_more(setting: Setting) -> None:  # noqa: F811
    result = setting.run(WATCHES, limits=dataclasses.replace(ROOMY, wall_s=10.0))
    assert result.stdout == f"No space left on device {MAX_WATCHES}\n", result


def test_no_call_takes_the_pages_of_all_pipes(setting: Setting) -> None:  # noqa: F811
    for name, code in PIPES.items():
        result = setting.run(code, limits=dataclasses.replace(ROOMY, processes=32))
        assert (result.status, result.return_code) == (Status.ERROR, -9), name
    assert setting.run(FEW_PIPES, limits=ROOMY).stdout == "65536\n"


def test_no_call_takes_the_room_of_all_descriptors_in_flight(setting: Setting) -> None:  # noqa: F811
    for name, code in FLIGHTS.items():
        result = setting.run(f"{code}\ntime.sleep(60)", limits=ROOMY)
        assert (result.status, result.return_code) == (Status.ERROR, -9), name
        with setting.session() as first, setting.session() as second:
            assert first.run(code, limits=ROOMY).state_lost, name
            assert second.run(FEW_IN_FLIGHT, limits=ROOMY).stdout == "40\n", name


def test_a_program_finds_its_own_names_and_room_for_threads(setting: Setting) -> None:  # noqa: F811
    result = setting.run(HONEST, limits=dataclasses.replace(ROOMY, memory_bytes=512 << 20, processes=32))
    assert (result.stdout, result.stderr) == (HONEST_PRINTS, "")


def test_no_name_of_a_socket_upsets_the_supervisor(setting: Setting) -> None:  # noqa: F811
    assert setting.run(NAMES, limits=ROOMY).stdout == "named\n"


def test_the_supervisor_waits_for_no_socket_that_it_closes(setting: Setting) -> None:  # noqa: F811
    limits = dataclasses.replace(ROOMY, wall_s=2.0)
    with setting.session() as session:
        # the wait is not asked for, whoever is the last to close: that is one of two
        assert session.run(LINGERS, limits=ROOMY).stdout == "(0, 0)\n"
        before = time.monotonic()
        result = session.run(LINGERS_ON, files={"go": ""}, limits=limits)
        assert (result.status, result.stdout) == (Status.TIMEOUT, "sent\n"), result
        assert time.monotonic() - before < limits.wall_s + 10  # and not 30
        assert session.run("print(1)", limits=limits).stdout == "1\n"


def test_connections_that_nobody_accepts_are_few(setting: Setting) -> None:  # noqa: F811
    assert setting.run(CONNECTIONS, limits=ROOMY).stdout == "33\n"
    result = setting.run(MORE_CONNECTIONS, limits=ROOMY)
    assert (result.status, result.return_code) == (Status.ERROR, -9), result


def test_closed_connections_are_remembered_no_further_than_so_many(setting: Setting) -> None:  # noqa: F811
    assert setting.run(CLOSED, limits=ROOMY).stdout == f"{CLOSED_CONNECTIONS.decode()}\n"


def test_a_page_of_shared_memory_counts_as_one(setting: Setting) -> None:  # noqa: F811
    result = setting.run(SMALL_MAPPINGS, limits=dataclasses.replace(ROOMY, memory_bytes=64 << 20))
    assert result.status is Status.MEMORY, result


def test_several_processes_have_fewer_mappings_than_one_may_have(setting: Setting) -> None:  # noqa: F811
    result = setting.run(OF_ONE_AND_OF_TWO, limits=dataclasses.replace(ROOMY, memory_bytes=512 << 20))
    assert (result.status, result.return_code, result.stdout) == (Status.ERROR, -9, "alone\n"), result
    for name, code in FROM_MANY_SIDES.items():
        result = setting.run(code, limits=dataclasses.replace(ROOMY, memory_bytes=512 << 20))
        assert (result.status, result.return_code, result.stdout) == (Status.ERROR, -9, ""), (name, result)


def test_mappings_of_two_processes_in_one_memory_count_once(setting: Setting) -> None:  # noqa: F811
    result = setting.run(IN_ONE_MEMORY, limits=dataclasses.replace(ROOMY, memory_bytes=512 << 20))
    assert (result.status, result.stdout) == (Status.OK, "waited for\n" * 2), result


def test_what_a_call_holds_open_can_be_looked_at_in_a_moment(setting: Setting) -> None:  # noqa: F811
    for code in (TEXTS.replace("NUMBER", "100"), DESCRIPTORS):
        result = setting.run(code, limits=ROOMY)
        assert (result.status, result.return_code) == (Status.ERROR, -9), result
    assert setting.run(TEXTS.replace("NUMBER", "50"), limits=ROOMY).stdout == "held\n"
    limits = dataclasses.replace(ROOMY, wall_s=1.5)
    results = [setting.run(EPOLLS, limits=limits)]
    while results[-1].duration_s >= 2.0 and len(results) < 3:  # others may have had the processors
        results.append(setting.run(EPOLLS, limits=limits))
    assert {result.status for result in results} == {Status.TIMEOUT}, results
    assert results[-1].duration_s < 2.0, results


FEW_DESCRIPTORS = """
import resource
most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, most[1]))
"""
"""To be executed by a host, which has no more than many users have."""


def test_descriptors_in_flight_for_a_moment_fail_no_other_call() -> None:
    with opened("user, no cgroups") as setting, ThreadPoolExecutor(1) as thread:  # noqa: F811
        setting.evaluate(FEW_DESCRIPTORS)
        burst = thread.submit(setting.run, BURSTS, limits=dataclasses.replace(ROOMY, wall_s=5.0))
        while not burst.done():
            result = setting.run("print(1)", limits=ROOMY)
            assert result.stdout == "1\n", result
        assert burst.result().status is not Status.SANDBOX_ERROR
