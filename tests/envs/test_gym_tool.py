"""A plain Gymnasium game as one of ours: actions, texts, tasks, success, and all that a policy could misuse."""

from typing import Any

import gymnasium
import pytest

from tests.envs import gym_games
from trm_envs.checker import check
from trm_envs.gym_tool import GymTool, register_gym
from trm_envs.gym_tool.observations import plain
from trm_envs.gym_tool.search import replayed
from trm_envs.options import split_of

FROZEN = {"env_id": "FrozenLake-v1", "one_task": True, "env_kwargs": {"is_slippery": False}}


def game(name: str, **options: Any) -> GymTool:
    env = GymTool(f"games/{name}-v0", **options)
    env.reset(seed=3)
    return env


def played(env: GymTool, *actions: Any) -> list[Any]:
    return [env.step(env.call("act", action=action)) for action in actions]


def won(env: GymTool, seed: int = 3) -> tuple[list[Any], list[float]]:
    """The solver's last step of an episode, and all rewards."""
    env.reset(seed=seed)
    rewards = []
    while True:
        step = env.step(env.solution())
        rewards.append(step[1])
        if step[2] or step[3]:
            return list(step), rewards


@pytest.mark.parametrize(
    ("name", "options", "action"),
    [
        ("Sum", {}, 2),
        ("Sum", {"actions": ["one", "two"]}, "two"),
        ("Pairs", {"to_text": gym_games.show}, [2, 0]),
        ("Pairs", {"to_text": "tests.envs.gym_games:show"}, [1, 1]),
        ("Spelling", {}, "two"),
    ],
)
def test_a_call_makes_a_move_in_any_kind_of_actions(name: str, options: dict[str, Any], action: Any) -> None:
    env = game(name, **options)
    before = env._game.unwrapped.left
    (step,) = played(env, action)
    assert (env._game.unwrapped.left, step[4]["num_tool_calls"]) == (before - 2, 1)
    assert str(before - 2) in step[0]


@pytest.mark.parametrize(
    ("name", "options", "action", "words"),
    [
        ("Sum", {}, 3, "from 1 to 2"),
        ("Sum", {}, 0, "from 1 to 2"),
        ("Sum", {}, "2", "must be an integer"),
        ("Sum", {}, True, "must be an integer"),
        ("Sum", {"actions": ["one", "two"]}, "three", 'one of "one", "two"'),
        ("Pairs", {"to_text": gym_games.show}, [1], "give 2"),
        ("Pairs", {"to_text": gym_games.show}, [1, 3], "from 0 to 2"),
        ("Spelling", {}, "zwei", "characters enotw"),
    ],
)
def test_an_action_that_is_not_allowed_is_told_and_plays_nothing(
    name: str, options: dict[str, Any], action: Any, words: str
) -> None:
    env = game(name, **options)
    before = env._game.unwrapped.left
    ((shown, reward, terminated, truncated, _),) = played(env, action)
    assert words in shown
    assert (env._game.unwrapped.left, reward, terminated, truncated) == (before, 0.0, False, False)


def test_the_seed_makes_the_task_and_the_observation_its_split() -> None:
    env = game("Sum")
    assert env.reset(seed=5) == env.reset(seed=5)
    for split in ("train", "held_out"):
        firsts = [env.reset(seed=seed, options={"split": split})[0] for seed in range(20)]
        assert {split_of(first) for first in firsts} == {split}
        assert len(set(firsts)) > 3


def test_a_hidden_task_is_told_apart_by_a_function_or_the_seed() -> None:
    with pytest.raises(ValueError, match=r"split: got 'held_out', to which none of 1000 .*set one_task=true"):
        game("Hidden", split="held_out")
    for task in ("seed", gym_games.hidden, "tests.envs.gym_games:hidden"):
        env = game("Hidden", task=task)
        assert len({env.reset(seed=seed)[1]["task_id"] for seed in range(9)}) > 4


def test_a_game_with_one_task_is_in_every_split_by_an_explicit_option() -> None:
    env = GymTool(**FROZEN)
    ids = {
        env.reset(seed=seed, options={"split": split})[1]["task_id"] for seed, split in [(1, "train"), (2, "held_out")]
    }
    assert len(ids) == 1
    assert env.one_task
    assert "[S]FFF" in env.reset(seed=3)[0]


def test_the_reward_is_success_or_else_the_games_own() -> None:
    (shown, reward, terminated, _, info), rewards = won(GymTool(**FROZEN))
    assert (reward, terminated, info["success"], rewards) == (1.0, True, True, [0.0] * 5 + [1.0])
    assert info["numbers"] == {"game_return": 1.0, "game_steps": 6.0}
    assert "[G]" in shown
    env = game("Costly", success_at=-40, rewards="game", unfinished_reward=-100)
    (*_, info), rewards = won(env)
    assert set(rewards) == {-1.0}
    assert (info["success"], info["numbers"]["game_return"]) == (True, sum(rewards))
    assert (env.unfinished_reward, env.reward_range[0]) == (-100.0, float("-inf"))


def test_giving_up_is_worth_no_more_than_not_finishing() -> None:
    answer = "\\boxed{I give up}"
    assert game("Sum").step(answer)[1:3] == (0.0, True)
    env = game("Costly", rewards="game", unfinished_reward=-100)
    rewards = [step[1] for step in played(env, 1, 1)]
    *_, reward, terminated, _, info = env.step(answer)
    assert (sum(rewards) + reward, terminated, info["success"]) == (-100.0, True, False)


def test_a_game_that_is_cut_is_worth_no_more_than_not_finishing() -> None:
    costly = {"rewards": "game", "unfinished_reward": -100}
    for number in (1, 2):
        env = game("Costly", env_kwargs={"max_episode_steps": number}, success_at=-40, **costly)
        steps = played(env, *[1] * number)
        assert (sum(step[1] for step in steps), steps[-1][3]) == (-100.0, True)
    # unless a rule says that it is won so
    env = game("Costly", env_kwargs={"max_episode_steps": 1}, success=gym_games.survived, **costly)
    assert played(env, 1)[0][1:4] == (-1.0, False, True)


def test_the_solver_wins_by_a_rule_that_reads_the_game() -> None:
    (*_, info), _ = won(game("Sum", success="tests.envs.gym_games:is_exact"))
    assert info["success"]


@pytest.mark.parametrize("fault", [KeyError("x"), NotImplementedError(), AttributeError("no shape"), 7])
def test_a_to_text_that_fails_is_named_wherever_it_is_called(fault: Any) -> None:
    # the first observation can be shown, the next ones cannot
    shown: list[Any] = []

    def show(observation: Any) -> Any:
        shown.append(observation)
        if len(shown) == 1:
            return "first"
        if isinstance(fault, Exception):
            raise fault
        return fault

    name = type(fault).__name__ if isinstance(fault, Exception) else "TypeError: returned int, expected str"
    env = game("Pairs", to_text=show)
    with pytest.raises(ValueError, match=rf"^to_text: show raised {name}.* on the observation .*; mend the function"):
        env.solution()
    (step,) = played(env, [1, 1])
    assert (step[1], step[2], step[4]["success"]) == (0.0, True, False)
    assert f"to_text: show raised {name}" in step[4]["scorer_error"]
    with pytest.raises(ValueError, match=rf"^to_text: show raised {name}"):
        env.reset(seed=3)


def test_the_solver_avoids_moves_on_which_the_game_raises() -> None:
    (*_, info), _ = won(game("Breaks"))
    assert info["success"]


def test_a_line_that_wins_by_one_rule_is_not_taken_for_another() -> None:
    assert won(game("Costly", success_at=-40, rewards="game", unfinished_reward=-100))[0][4]["success"]
    with pytest.raises(NotImplementedError):
        game("Costly", success_at=1, rewards="game", unfinished_reward=-100).solution()


def test_a_line_that_is_longer_than_the_game_does_not_replay() -> None:
    sum_of_ones = gymnasium.make("games/Sum-v0", disable_env_checker=True)
    sum_of_ones.reset(seed=3)
    number = gym_games.left_of(sum_of_ones)
    found = replayed(sum_of_ones, 3, [1] * number)
    assert found is not None
    assert (found.total, found.is_over) == (1.0, True)
    assert replayed(sum_of_ones, 3, [1] * (number + 1)) is None


def test_a_loss_and_a_cut_game_are_no_success_unless_a_rule_says_so() -> None:
    env = game("Sum", env_kwargs={"max_episode_steps": 1})
    ((_, reward, terminated, truncated, info),) = played(env, 1)
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)
    # a threshold that standing still would reach
    env = game("Sum", env_kwargs={"max_episode_steps": 1}, success_at=-5)
    assert played(env, 1)[0][4]["success"] is False
    env = game("Sum", env_kwargs={"max_episode_steps": 1}, success="tests.envs.gym_games:survived")
    assert played(env, 1)[0][1:] == (1.0, False, True, {**played_info(), "success": True})


def played_info() -> dict[str, Any]:
    numbers = {"game_return": 0.0, "game_steps": 1.0}
    return {"role": "tool", "num_tool_calls": 1, "malformed": False, "success": False, "numbers": numbers}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Breaks", "the board fell"),
        ("PaysNothingFinite", "expected a finite number"),
        ("ShowsNoText", "returned NoneType, expected str"),
    ],
)
def test_a_game_that_breaks_on_an_action_ends_the_episode_at_its_cost(name: str, words: str) -> None:
    env = game(name)
    before = env._game
    ((_, reward, terminated, _, info),) = played(env, 2)
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert words in info["scorer_error"]
    # and the next episode has a sound one
    env.reset(seed=4)
    assert env._game is not before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["env_id", "env_id=FrozenLake-v1"]),
        ({"env_id": "FrozenLak-v1"}, ["env_id", "FrozenLake"]),
        ({"env_id": "Taxi-v3"}, ["deprecated", "Taxi-v4"]),
        ({"env_id": "CartPole-v1"}, ["to_text", "renders human, rgb_array"]),
        ({"env_id": "MountainCarContinuous-v0", "to_text": "builtins:str"}, ["Box", "Discrete, MultiDiscrete"]),
        ({"env_id": "Blackjack-v1"}, ["to_text", "Tuple"]),
        ({"env_id": "Blackjack-v1", "to_text": "builtins:str"}, ["success_at", "no reward_threshold"]),
        ({"env_id": "Blackjack-v1", "to_text": "no_such:thing", "success_at": 1}, ["to_text", "no_such"]),
        ({"env_id": "trm/ChainMath-v0"}, ["is a ToolEnv"]),
        ({**FROZEN, "rewards": "game"}, ["unfinished_reward", "never finishing"]),
        ({**FROZEN, "unfinished_reward": -1}, ["unfinished_reward", "null"]),
        ({**FROZEN, "horizon": 4}, ["horizon: got 4", "[1]"]),
        ({**FROZEN, "actions": ["left", "right"]}, ["actions", "each action of Discrete(4)"]),
        ({**FROZEN, "protocol": "fenced"}, ["fenced"]),
        ({**FROZEN, "env_kwargs": {"map": "4x4"}}, ["env_kwargs", "map"]),
        ({"env_id": "json:mine/Game-v0"}, ["registered nothing (imported from"]),
    ],
)
def test_what_cannot_be_wrapped_is_refused(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"got|protocol") as refusal:
        gymnasium.make("trm/Gym-v0", **options)
    assert [word for word in words if word not in str(refusal.value)] == [], str(refusal.value)


def test_a_game_is_chosen_when_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"reset: env_kwargs: .* give it to gymnasium.make"):
        game("Sum").reset(options={"env_kwargs": {}})


def test_an_id_of_ones_own_passes_the_check() -> None:
    register_gym("games/Own-v0", "games/Pairs-v0", to_text=gym_games.show, rules="Add up.")
    try:
        assert gymnasium.spec("games/Own-v0").kwargs["to_text"] == "tests.envs.gym_games:show"
        found = check("games/Own-v0", horizons=[1], num_fuzz=20, only=["seeds_differ", "rewards", "junk", "solver:1"])
        assert {finding.outcome for finding in found} == {"ok"}, found
        with pytest.raises(ValueError, match="is registered; give another"):
            register_gym("games/Own-v0", "games/Pairs-v0")
    finally:
        gymnasium.registry.pop("games/Own-v0")


def test_one_task_that_is_many_is_found() -> None:
    (finding,) = check(
        lambda **options: GymTool("games/Sum-v0", **{"one_task": True, **options}), only=["seeds_differ"]
    )
    assert finding.failed
    assert "hold tasks out" in finding.message


def test_colours_become_marks() -> None:
    assert plain("\n\x1b[41mS\x1b[0mF\nF\x1b[34;1mB\x1b[0m\n  (Right)\n") == "[S]F\nFB\n  (Right)\nblue: B"
    assert plain("\x1b[1mplain\x1b[0m\x1b[K") == "plain"


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"env_id": "FrozenLake-v1", "one_task": True},
        {"env_id": "Blackjack-v1", "to_text": "builtins:str", "success_at": 1.0},
        {"env_id": "CliffWalking-v1", "success_at": -100, "one_task": True, "env_kwargs": {"max_episode_steps": 50}},
        {"env_id": "Taxi-v4", "success_at": 0, "env_kwargs": {"max_episode_steps": 30}},
    ],
    ids=lambda options: options["env_id"],
)
def test_toy_games_keep_the_contract(options: dict[str, Any]) -> None:
    found = check("trm/Gym-v0", horizons=[1], options=options, num_fuzz=50)
    assert [finding for finding in found if finding.failed] == []


def test_a_task_that_the_search_cannot_win_skips_the_solvers_check_and_says_so() -> None:
    (finding,) = check(GymTool, options={"env_id": "games/Sum-v0", "success_at": 2.0}, only=["solver:1"])  # it pays 1
    assert finding.outcome == "skipped"
    assert "in solution: no line that wins this task of games/Sum-v0 was found (nor" in finding.message
