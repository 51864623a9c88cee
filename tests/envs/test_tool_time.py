"""The budget of time for a model's programs: who pays for what, in every sandbox."""

import contextlib
import copy
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest

import trm_envs
from tests.envs.env_support import SLEEP, call, make
from tests.envs.fusion_support import running_server
from tests.envs.sandbox_support import needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox, Status
from trm_envs.sandbox.fusion.sandbox import FusionSandbox
from trm_envs.sandbox.fusion.session import _Cell, _State
from trm_envs.tool_time import ToolTime, waiting

pytestmark = pytest.mark.slow

SANDBOXES = [
    pytest.param("local", marks=needs_bubblewrap),
    pytest.param("unsafe", marks=pytest.mark.slow),
    pytest.param("http", marks=needs_bubblewrap),
]
MOSTLY_SLOW = [
    pytest.param("local", marks=needs_bubblewrap),
    pytest.param("unsafe", marks=pytest.mark.slow),
    pytest.param("http", marks=[needs_bubblewrap, pytest.mark.slow]),
]


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[dict[str, str]]:
    """The address of a server, made at the first look; names for the others."""
    with contextlib.ExitStack() as stack:

        class Names(dict[str, str]):
            def __missing__(self, name: str) -> str:
                if name == "http":
                    local = stack.enter_context(LocalSandbox(max_concurrent=2))
                    self[name] = stack.enter_context(running_server(local))
                return self.setdefault(name, name)

        yield Names()


def test_what_works_on_the_text_is_charged_and_a_wait_is_not(clock: Clock) -> None:
    tool_time = ToolTime(clock)
    tool_time.set_limits(10, 14)
    with tool_time.turn():
        clock.now += 3
        with waiting():
            clock.now += 50
            assert (tool_time.used_s(), tool_time.waited_s()) == (3, 50)  # the wait under way included
        clock.now += 4
    clock.now += 100  # between two steps nothing is used
    assert (tool_time.used_s(), tool_time.turn_used_s(), tool_time.waited_s()) == (7, 7, 50)
    with tool_time.turn():
        assert tool_time.left_s() == 7  # of the episode's 14, less than the turn's 10
        clock.now += 7
        assert tool_time.is_used_up()
    with tool_time.reset():
        clock.now += 5
        with waiting():
            clock.now += 1
    assert (tool_time.used_s(), tool_time.waited_s(), tool_time.is_used_up()) == (0, 51, False)


def test_a_program_costs_what_the_sandbox_says_and_the_rest_was_a_wait(clock: Clock) -> None:
    tool_time = ToolTime(clock)
    with tool_time.turn():
        with tool_time.program(5) as run:
            clock.now += 2
            assert (tool_time.used_s(), tool_time.waited_s()) == (2, 0)
            clock.now += 30  # no program runs longer than its limit
            assert (tool_time.used_s(), tool_time.waited_s()) == (5, 27)
            run.ran(4)
        assert (tool_time.used_s(), tool_time.waited_s()) == (4, 28)
        with contextlib.suppress(OSError), tool_time.program(5):
            clock.now += 9
            raise OSError
        assert (tool_time.used_s(), tool_time.waited_s()) == (4, 37)  # a failure of the sandbox costs nothing


def test_waits_never_shrink_whatever_a_server_says(clock: Clock) -> None:
    tool_time = ToolTime(clock)
    with tool_time.turn(), tool_time.program(5) as run, waiting():
        clock.now += 8
        before = tool_time.waited_s()
        run.ran(3)
    assert tool_time.waited_s() >= before == 8
    assert tool_time.used_s() == 3


@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "5"])
def test_a_limit_that_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"turn_s: got .*above 0; "):
        ToolTime().set_limits(value, None)


def test_without_limits_nothing_is_used_up_and_a_step_has_no_bound() -> None:
    env = make("trm/ChainMath-v0")
    assert not env.tool_time.is_used_up()
    assert env.step_budget_s() == float("inf")
    env.tool_time.set_limits(20, 7)
    assert 7 < env.step_budget_s() < 20  # no turn uses more than the episode's


def test_other_threads_see_a_wait_and_a_hang_while_they_last() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(trm_envs.ToolEnv):
        def make_task(self) -> str:
            return "go"

        def score(self, answer: str) -> float:
            with waiting():
                entered.set()
                leave.wait(10)
            entered.set()
            time.sleep(0.4)
            return 1.0

    env = Slow(split="all")
    env.tool_time.set_limits(0.2, None)
    env.reset(seed=0)
    steps: list[Any] = []
    thread = threading.Thread(target=lambda: steps.append(env.step(env.answer("1"))))
    thread.start()
    assert entered.wait(5)
    time.sleep(0.3)
    assert env.tool_time.waited_s() >= 0.3
    assert not env.tool_time.is_used_up()
    leave.set()
    while not env.tool_time.is_used_up():
        assert thread.is_alive()
        time.sleep(0.01)
    thread.join()
    _, reward, terminated, truncated, info = steps[0]
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert (info["stop_reason"], info["success"]) == ("max_tool_time", False)


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_one_slow_call_is_an_observation_and_the_turns_budget_ends_the_episode(
    sandboxes: dict[str, str], sandbox: str
) -> None:
    env = make("trm/PythonMath-v0", sandbox=sandboxes[sandbox], tool_timeout_s=1.0)
    env.tool_time.set_limits(2.9, 30)
    env.reset(seed=0)
    observation, _, terminated, truncated, info = env.step(call("python", code=SLEEP))
    assert "took too long" in observation
    assert "time limit exceeded" not in observation
    assert (terminated, truncated) == (False, False)
    assert 1.0 <= info["tool_time_s"] < 2.0
    started = time.monotonic()
    observation, reward, terminated, truncated, info = env.step(call("python", code=SLEEP) * 32)
    assert (reward, terminated, truncated, info["stop_reason"]) == (0.0, False, True, "max_tool_time")
    assert observation.count("time limit exceeded") == 30  # the third call used the budget up, 29 did not run
    assert (info["num_tool_calls"], info["malformed"], info["success"]) == (3, False, False)
    assert time.monotonic() - started < 20  # 32 times one second would be more
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("hello")
    env.reset(seed=0)
    assert env.tool_time.used_s() == 0
    env.close()


@pytest.mark.parametrize("sandbox", MOSTLY_SLOW)
def test_the_episodes_budget_is_shared_by_its_turns(sandboxes: dict[str, str], sandbox: str) -> None:
    env = make("trm/ComposedMath-v0", sandbox=sandboxes[sandbox], tool_timeout_s=1.0)
    env.tool_time.set_limits(60, 2.9)
    env.reset(seed=0)
    reasons = [env.step(call("python", code=SLEEP))[4].get("stop_reason") for _ in range(3)]
    assert reasons == [None, None, "max_tool_time"]
    env.close()


@pytest.mark.parametrize("sandbox", MOSTLY_SLOW)
def test_hidden_tests_use_the_budget_too(sandboxes: dict[str, str], sandbox: str) -> None:
    env = make("trm/CodeTests-v0", sandbox=sandboxes[sandbox], horizon=1, tool_timeout_s=15)
    env.tool_time.set_limits(2.0, 60)
    env.reset(seed=0)
    # passes the visible tests at its first run, and sleeps at the second
    right = json.loads(env.solution().split("\n")[1])["arguments"]["code"]
    assert env.step(call("run_tests", code=right))[0].startswith("Passed")
    env._accepted.append(SLEEP)  # type: ignore[attr-defined]
    started = time.monotonic()
    _, reward, terminated, truncated, info = env.step(env.answer("done"))
    assert time.monotonic() - started < 8
    assert (reward, terminated, truncated, info["stop_reason"]) == (0.0, False, True, "max_tool_time")
    env.close()


@needs_bubblewrap
def test_a_repair_that_sleeps_is_stopped_by_the_budget() -> None:
    env = make("trm/CodeRepair-v0", horizon=1, tool_timeout_s=5)
    env.tool_time.set_limits(0.5, 60)
    env.reset(seed=0)
    files = env._project.files  # type: ignore[attr-defined]
    path = next(name for name in files if not name.startswith("test_"))
    env._edited[path] = f"{files[path]}\n{SLEEP}\n"  # type: ignore[attr-defined]
    tested = env.step(call("run_tests"))
    assert "took too long" in tested[0]
    assert tested[4]["stop_reason"] == "max_tool_time"
    env.reset(seed=0)
    env._edited[path] = f"{files[path]}\n{SLEEP}\n"  # type: ignore[attr-defined]
    _, reward, _, truncated, info = env.step(env.answer("done"))
    assert (reward, truncated, info["stop_reason"]) == (0.0, True, "max_tool_time")


def test_an_environment_can_be_copied_with_what_it_has_used() -> None:
    env = make("trm/ChainMath-v0")
    env.tool_time.set_limits(5, None)
    env.reset(seed=0)
    twin = copy.deepcopy(env)
    assert twin.step(twin.solution())[0] == env.step(env.solution())[0]
    assert twin.step_budget_s() == env.step_budget_s()
    assert twin.tool_time is not env.tool_time


def test_cells_that_no_server_takes_together_are_the_sessions_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trm_envs.sandbox.fusion.poster.MOST_BYTES", 2000)
    with FusionSandbox("http://127.0.0.1:1", retries=0) as sandbox:
        session = sandbox.session()
        assert session.run("#" * 3000).status is Status.ERROR
        session._state = _State({}, (_Cell("#" * 1500, False),))
        result = session.run("#" * 1500)
        assert (result.status, result.state_lost) == (Status.ERROR, True)
        assert session.run("1").status is Status.SANDBOX_ERROR
        assert "too long" in sandbox.run("#" * 3000).stderr


def test_what_takes_too_long_to_replay_is_given_up_by_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    with FusionSandbox("http://127.0.0.1:1", retries=0) as sandbox:
        session = sandbox.session()
        session._state = _State({}, (_Cell("1", False),), replay_s=299.0)
        result = session.run("2", limits=Limits(wall_s=5))
        assert (result.status, result.state_lost) == (Status.ERROR, True)
        assert "more than 300" in result.stderr
        assert session.run("2", limits=Limits(wall_s=5)).status is Status.SANDBOX_ERROR  # and nothing is replayed
