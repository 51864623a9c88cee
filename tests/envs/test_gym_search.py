"""The search for a line that wins a game: how much of it there is where it finds nothing."""

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import tests.envs.gym_games  # noqa: F401
from trm_agent.models import traces
from trm_envs.gym_tool import GymTool
from trm_envs.gym_tool import env as module
from trm_envs.gym_tool.search import TooLarge

NUM_TASKS = 30


def too_large() -> None:
    raise TooLarge


def num_searches(outcomes: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many searches there are over many tasks, each of which has a given outcome."""
    done = [0]

    def search(*_: Any) -> Any:
        done[0] += 1
        return outcomes(done[0])

    monkeypatch.setattr(module, "winning_line", search)
    monkeypatch.setattr(module, "_given_up", Counter())
    monkeypatch.setattr(module, "_lines", {})
    env = GymTool("games/Sum-v0")
    for seed in range(NUM_TASKS):
        env.reset(seed=seed)
        with contextlib.suppress(NotImplementedError):
            env.solution()
    return done[0]


@pytest.mark.parametrize(
    ("outcomes", "count"),
    [
        # a game that is too large is not searched for each of its tasks
        (lambda number: too_large(), module.MAX_GIVEN_UP),
        # a task that cannot be won says nothing of the next one
        (lambda number: None, NUM_TASKS),
        # one that was won shows that it is worth the time
        (lambda number: [1] if number == 5 else too_large(), NUM_TASKS),
        (lambda number: [1], NUM_TASKS),
    ],
)
def test_a_game_whose_searches_are_given_up_is_left_alone(
    outcomes: Callable[[int], Any], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert num_searches(outcomes, monkeypatch) == count


def test_a_search_says_that_it_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from trm_envs.gym_tool import search

    made = GymTool("games/Sum-v0")._made()
    moves = [1, 2]
    assert search.winning_line(made, 3, moves, lambda total, cut, game: False, str) is None
    monkeypatch.setattr(search, "MAX_STEPS", 5)
    with pytest.raises(TooLarge):
        search.winning_line(made, 3, moves, lambda total, cut, game: False, str)


def test_the_solver_of_a_game_that_no_search_wins_names_what_its_user_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MOST_LOST", 2)
    solver = traces.Solver("trm/Gym-v0", "train", kwargs={"env_id": "games/Sum-v0", "success_at": 2.0})
    with pytest.raises(traces.NoSolver, match=r"no line .*env.kwargs.success_at.*gym_tool.GymTool.*model=hub") as told:
        solver.solve(0, 1)
    assert "imitate; define solution()" not in str(told.value)
