"""Each call has a world of its own: nothing of another one is seen, opened, waited for or used up."""

import dataclasses
from collections.abc import Iterator

import pytest

from tests.envs.sandbox_attacks_worlds import FIND_LEFT, FOUND, LEFT, MANY_LOCKS, MEETINGS, SQLITE, SQLITE_PRINTS, SWAP
from tests.envs.sandbox_support import TIGHT, needs_bubblewrap
from trm_envs.sandbox import LocalSandbox, Status
from trm_envs.sandbox.guest.questions import MAX_LOCKS

pytestmark = [pytest.mark.slow, needs_bubblewrap]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox(dataclasses.replace(TIGHT, wall_s=10.0)) as made:
        yield made


@pytest.mark.parametrize("name", MEETINGS)
def test_two_sessions_meet_nowhere(sandbox: LocalSandbox, name: str) -> None:
    meeting = MEETINGS[name]
    with sandbox.session() as first, sandbox.session() as second:
        assert first.run(meeting.first).ok
        found = second.run(meeting.second)
    assert (found.stdout, found.stderr) == (meeting.expected, ""), found


def test_a_call_leaves_nothing_to_the_next(sandbox: LocalSandbox) -> None:
    for name, code in LEFT.items():
        result = sandbox.run(code)
        assert result.ok, (name, result)
        assert sandbox.run(FIND_LEFT).stdout == FOUND, name


@pytest.mark.parametrize("kind", ["call", "session"])
def test_locks_of_the_working_folder_are_as_everywhere(sandbox: LocalSandbox, kind: str) -> None:
    with sandbox.session() as session:
        result = (sandbox if kind == "call" else session).run(SQLITE)
    assert (result.stdout, result.stderr) == (SQLITE_PRINTS, "")


def test_a_lock_that_was_gained_by_a_trick_ends_the_program(sandbox: LocalSandbox) -> None:
    result = sandbox.run(SWAP)
    assert (result.status, result.return_code) == (Status.ERROR, -9), result


def test_a_call_holds_so_many_locks_and_no_more(sandbox: LocalSandbox) -> None:
    *why, number = sandbox.run(MANY_LOCKS).stdout.split()
    assert " ".join(why) == "No locks available"
    assert MAX_LOCKS <= int(number) < MAX_LOCKS + 100
