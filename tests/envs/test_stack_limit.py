"""The stack of a program, for deep recursion in C."""

from collections.abc import Callable

import pytest

from tests.envs.sandbox_support import MIB, needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox, Sandbox, Status, UnsafeSandbox
from trm_envs.sandbox.fusion.schema import limit_fields

# lists are compared by recursion in C: 200,000 levels take between 8 and 100 MiB
DEEP = "import sys\nsys.setrecursionlimit(10**6)\nx, y = [], []\nfor _ in range(200000): x, y = [x], [y]\nprint(x == y)"


@pytest.mark.slow
@needs_bubblewrap
@pytest.mark.filterwarnings("ignore:sandbox=unsafe")
@pytest.mark.parametrize("make", [LocalSandbox, UnsafeSandbox])
def test_a_program_has_the_stack_that_it_is_given(make: Callable[[], Sandbox]) -> None:
    with make() as sandbox:  # type: ignore[attr-defined]
        assert sandbox.run(DEEP, limits=Limits(stack_bytes=100 * MIB)).stdout == "True\n"
        assert sandbox.run(DEEP).status is Status.ERROR
        with sandbox.session() as session:
            assert session.run(DEEP, limits=Limits(stack_bytes=100 * MIB)).stdout == "True\n"


def test_a_server_of_an_earlier_release_is_not_sent_the_field_it_does_not_know() -> None:
    assert "stack_bytes" not in limit_fields(Limits())["trm_limits"]
    assert limit_fields(Limits(stack_bytes=MIB))["trm_limits"]["stack_bytes"] == MIB
