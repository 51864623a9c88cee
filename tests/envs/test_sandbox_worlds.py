"""Each call has a world of its own: nothing of another one is seen, opened, waited for or used up."""

import dataclasses
from collections.abc import Iterator

import pytest

from tests.envs.sandbox_attacks_worlds import FIND_LEFT, FOUND, LEFT, MEETINGS
from tests.envs.sandbox_support import TIGHT, needs_bubblewrap
from trm_envs.sandbox import LocalSandbox

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
