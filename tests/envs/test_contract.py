"""One contract for every registered environment."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import trm_envs

ENV_IDS = trm_envs.registered_ids()
every_env = pytest.mark.parametrize("env_id", ENV_IDS)

MALFORMED = [
    "<tool_call>\n{not json}\n</tool_call>",
    '<tool_call>{"name": "calculator"',
    "</tool_call>",
    "<tool_call>[1]</tool_call>",
    '<tool_call>{"name": "no_such_tool", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "calculator", "arguments": {"no_such_argument": 1}}</tool_call>',
]
JUNK = ["", "hello", "\x00\ud800 中", "\\boxed{", "\\boxed{-123456789}", *MALFORMED]


def make(env_id: str, **options: object) -> trm_envs.ToolEnv:
    return gymnasium.make(env_id, **options).unwrapped  # type: ignore[return-value]


def play(env: trm_envs.ToolEnv, seed: int, **options: object) -> list:
    """Return everything that the solver's episode shows."""
    shown: list = [env.reset(seed=seed, options=options)]
    while True:
        action = env.solution()
        observation, reward, terminated, truncated, info = env.step(action)
        shown.append([action, observation, reward, terminated, truncated, info])
        if terminated or truncated:
            return shown


def run_python(program: str) -> str:
    """Run a program in a fresh process that can import this file and the package."""
    paths = [str(Path(__file__).parent), str(Path(trm_envs.__file__).parents[1])]
    program = f"import sys; sys.path[:0] = {paths}\n{program}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@every_env
def test_gymnasium_accepts_it(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(env_id))


@every_env
@pytest.mark.parametrize("horizon", [1, 4, 50, 500])
def test_the_solver_earns_the_full_reward(env_id: str, horizon: int) -> None:
    episode = play(make(env_id, horizon=horizon), seed=horizon)
    assert episode[0][1]["horizon"] == horizon
    *before, (_, _, reward, terminated, _, info) = episode[1:]
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    assert len(before) >= horizon
    assert all(step[2] == 0.0 and step[5]["role"] == "tool" and not step[5]["malformed"] for step in before)


@every_env
def test_a_junk_policy_earns_nothing(env_id: str) -> None:
    env = make(env_id)
    for junk in JUNK:
        env.reset(seed=0)
        for _ in range(5):
            _, reward, terminated, _, info = env.step(junk)
            assert reward == 0.0
            if terminated:
                assert info["success"] is False
                break


@every_env
@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_call_is_an_observation_and_the_episode_goes_on(env_id: str, text: str) -> None:
    env = make(env_id, horizon=2)
    env.reset(seed=3)
    observation, reward, terminated, truncated, info = env.step(text)
    assert observation.startswith("Error: ")
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info == {"role": "tool", "num_tool_calls": 0, "malformed": True}
    while not terminated:
        _, reward, terminated, _, _ = env.step(env.solution())
    assert reward == 1.0


@every_env
def test_two_instances_and_a_fresh_process_show_the_same_episode(env_id: str) -> None:
    here = json.dumps(play(make(env_id), seed=7, horizon=5))
    assert here == json.dumps(play(make(env_id), seed=7, horizon=5))
    assert here != json.dumps(play(make(env_id), seed=8, horizon=5))
    program = (
        "import json; from test_contract import make, play\n"
        f"print(json.dumps(play(make({env_id!r}), seed=7, horizon=5)))"
    )
    assert run_python(program) == here


@every_env
def test_everything_shown_is_json_and_belongs_to_the_spaces(env_id: str) -> None:
    env = make(env_id)
    episode = play(env, seed=1)
    assert json.loads(json.dumps(episode)) == [list(part) for part in episode]
    assert json.loads(json.dumps(env.tool_schemas)) == env.tool_schemas
    assert isinstance(env.system_prompt, str)
    assert all(env.action_space.contains(step[0]) and env.observation_space.contains(step[1]) for step in episode[1:])


@every_env
def test_the_splits_share_no_task(env_id: str) -> None:
    # Horizon 1 has few tasks, so that a leak would show.
    ids = {}
    for split in ("train", "held_out"):
        env = make(env_id, horizon=1, split=split)
        ids[split] = {env.reset(seed=seed)[1]["task_id"] for seed in range(1500)}
    assert len(ids["train"]) > 500
    assert len(ids["held_out"]) > 100
    assert not ids["train"] & ids["held_out"]


@every_env
def test_options_of_reset_override_those_of_make_for_one_episode(env_id: str) -> None:
    env = make(env_id, horizon=2)
    assert env.reset(seed=0, options={"horizon": 3})[1]["horizon"] == 3
    assert env.reset(seed=0)[1]["horizon"] == 2


@every_env
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizn": 3}, 'did you mean "horizon"'),
        ({"split": "heldout"}, 'did you mean "held_out"'),
        ({"horizon": 0}, "from 1 to 10000"),
        ({"horizon": "4"}, "from 1 to 10000"),
        ({"horizon": True}, "from 1 to 10000"),
    ],
)
def test_bad_options_are_refused_with_the_way_out(env_id: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(env_id, **options)
    with pytest.raises(ValueError, match=message):
        make(env_id).reset(options=options)


@every_env
def test_a_step_outside_an_episode_is_refused(env_id: str) -> None:
    env = make(env_id)
    with pytest.raises(ResetNeeded):
        env.step("hello")
    env.reset(seed=0)
    env.step("\\boxed{nothing}")
    with pytest.raises(ResetNeeded):
        env.step("hello")
    with pytest.raises(TypeError, match="expected str"):
        env.step(3)  # type: ignore[arg-type]


def test_the_package_imports_no_trainer() -> None:
    program = (
        "import trm_envs, gymnasium\n"
        f"for env_id in {ENV_IDS}: gymnasium.make(env_id).reset(seed=0)\n"
        "print([name for name in ('torch', 'verl', 'vllm', 'transformers', 'trm_agent') if name in sys.modules])"
    )
    assert run_python(program) == "[]"
