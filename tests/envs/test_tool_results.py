"""A tool may pay and end the episode: the return is the sum, and nothing is paid or run after the end."""

import math
from typing import Any

import pytest
from gymnasium.error import ResetNeeded

import trm_envs
from trm_envs import ToolResult


class Walk(trm_envs.ToolEnv):
    """Walk to the fourth field; each move may pay, and the end is a tool's."""

    def make_task(self) -> str:
        self.place, self.task_key = 0, str(self.np_random.random())
        return "Walk."

    @trm_envs.tool
    def walk(self, steps: int) -> ToolResult:
        """Walk some steps."""
        self.place += steps
        if self.place > 4:
            return ToolResult("You are tired.", truncated=True)
        return ToolResult(f"You are at {self.place}.", reward=steps * 0.25, terminated=self.place == 4)

    @trm_envs.tool
    def claim(self, kind: str) -> Any:
        """Return something forbidden."""
        return {
            "nan": ToolResult("", reward=math.nan),
            "text": ToolResult(3),  # type: ignore[arg-type]
            "reward": ToolResult("", reward="1"),  # type: ignore[arg-type]
            "end": ToolResult("", terminated=1),  # type: ignore[arg-type]
            "unrun": ToolResult("not run, it says", executed=False),
        }[kind]

    def score(self, answer: str) -> float:
        return 0.5

    def numbers(self) -> dict[str, float]:
        return {"place": self.place}


def walking(*turns: str) -> list[Any]:
    """The steps of an episode."""
    env = Walk()
    env.reset(seed=0)
    return [env.step(turn) for turn in turns]


def walk(*steps: int) -> str:
    """One turn with these calls."""
    env = Walk()
    env.reset(seed=0)
    return "\n".join(env.call("walk", steps=each) for each in steps)


def test_a_tool_pays_and_ends_the_episode() -> None:
    *_, (shown, reward, terminated, truncated, info) = walking(walk(1), walk(3))
    assert (shown, reward, terminated, truncated) == ("You are at 4.", 0.75, True, False)
    assert (info["success"], info["numbers"], info["num_tool_calls"], info["role"]) == (True, {"place": 4.0}, 1, "tool")


def test_success_is_a_return_of_one_whatever_paid_it() -> None:
    # 0.5 by a tool and 0.5 by the answer
    assert walking(walk(2), "\\boxed{here}")[-1][4]["success"] is True
    assert walking(walk(1), "\\boxed{here}")[-1][4]["success"] is False
    # ten times 0.1 is a whole, though their sum in floats is not
    assert math.fsum([0.1] * 10) == 1.0 != sum([0.1] * 10)


def test_an_end_by_truncation_is_no_success() -> None:
    shown, reward, terminated, truncated, info = walking(walk(2), walk(3))[-1]
    assert (shown, reward, terminated, truncated, info["success"]) == ("You are tired.", 0.0, False, True, False)


def test_calls_after_the_end_in_the_same_turn_do_nothing() -> None:
    shown, reward, terminated, _, info = walking(walk(4, -4, 4))[-1]
    assert (reward, terminated, info["num_tool_calls"], info["malformed"]) == (1.0, True, 1, False)
    assert shown.splitlines() == ["You are at 4.", "Error: the episode is over", "Error: the episode is over"]


def test_a_turn_after_the_end_is_refused() -> None:
    with pytest.raises(ResetNeeded):
        walking(walk(4), walk(1))


@pytest.mark.parametrize("kind", ["nan", "text", "reward", "end"])
def test_a_forbidden_result_is_the_turns_fault_and_takes_what_was_earned(kind: str) -> None:
    call = trm_envs.PROTOCOLS["hermes"].format_call("claim", {"kind": kind}, Walk()._tools)
    _, reward, terminated, _, info = walking(walk(2), call)[-1]
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert "tool claim returned a ToolResult with" in info["scorer_error"]


def test_a_tool_cannot_say_that_it_did_not_run() -> None:
    call = trm_envs.PROTOCOLS["hermes"].format_call("claim", {"kind": "unrun"}, Walk()._tools)
    *_, info = walking(call)[-1]
    assert (info["num_tool_calls"], info["malformed"]) == (1, False)


def test_each_episode_begins_with_nothing() -> None:
    env = Walk()
    for _ in range(2):
        env.reset(seed=1)
        assert env.step(env.call("walk", steps=2))[1:3] == (0.5, False)
