"""The expected answer: right, for people alone, and out of the reach of a policy."""

import asyncio
import json

import gymnasium
import pytest

import trm_envs  # noqa: F401
from tests.episode.forms import FORMS
from trm_agent.episode import Generation, Limits, chat_tokens, episode_record, run_episode
from trm_envs.tasks.chain_math import ChainMath
from trm_envs.tasks.python_math import PythonMath

SENTINEL = "X-the-expected-answer-X"
LOOK_AROUND = (
    "import os, sys, gc\n"
    "print(dict(os.environ), sys.argv, globals())\n"
    "for folder, _, names in os.walk('/tmp'):\n"
    "    for name in names:\n"
    "        print(open(os.path.join(folder, name), errors='replace').read())\n"
    "print([text for text in gc.get_objects() if 'expected' in str(type(text))])"
)


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("trm/ChainMath-v0", {}),
        ("trm/ChainMath-v0", {"reveal": "upfront"}),
        ("trm/PythonMath-v0", {"sandbox": "unsafe"}),
        ("trm/ComposedMath-v0", {"sandbox": "unsafe"}),
        ("trm/LongExecution-v0", {"score_by": "last"}),
    ],
)
@pytest.mark.filterwarnings("ignore:sandbox=unsafe")
def test_the_expected_answer_is_what_the_solver_gives(env_id, kwargs):
    with gymnasium.make(env_id, horizon=2, **kwargs) as made:
        env = made.unwrapped
        for seed in range(3):
            env.reset(seed=seed)
            done, answers = False, []
            while not done:
                turn = env.solution()
                if not env.protocol.parse(turn, env._tools).calls:
                    answers.append(turn)
                _, _, done, _, info = env.step(turn)
            assert info["success"]
            assert answers == [env.answer(part) for part in expected_parts(env, len(answers))]


def expected_parts(env, count):
    return [env.expected_answer] if count == 1 else env.expected_answer.split(", ")


def test_a_new_task_has_a_new_expected_answer():
    with gymnasium.make("trm/ChainMath-v0") as made:
        found = set()
        for seed in range(10):
            made.reset(seed=seed)
            found.add(made.unwrapped.expected_answer)
    assert len(found) > 5


class KnowsHalf(ChainMath):
    """Knows the answer of some tasks alone."""

    knows = True

    def make_task(self):
        before, first_message = self.expected_answer, super().make_task()
        assert before is None
        self.expected_answer = self.expected_answer if self.knows else before
        return first_message


def test_a_task_without_an_expected_answer_has_none_of_an_earlier_task():
    env = KnowsHalf()
    env.reset(seed=1)
    assert env.expected_answer is not None
    env.knows = False
    env.reset(seed=2)
    assert env.expected_answer is None


class Watched(PythonMath):
    """An environment whose expected answer can be recognised."""

    def make_task(self):
        first = super().make_task()
        self.expected_answer = SENTINEL
        return first


@pytest.mark.parametrize("kwargs", [{"sandbox": "local"}, {"sandbox": "unsafe"}])
@pytest.mark.filterwarnings("ignore:sandbox=unsafe")
def test_the_expected_answer_is_in_no_observation_and_not_in_the_sandbox(kwargs):
    env = Watched(horizon=2, **kwargs)
    first, info = env.reset(seed=1)
    seen = [first, str(info), env.system_prompt, str(env.tool_schemas)]
    for turn in (env.call("python", code=LOOK_AROUND), "nothing", "<tool_call>{}</tool_call>", env.answer("1")):
        observation, _, done, _, info = env.step(turn)
        seen += [observation, str(info)]
    env.close()
    assert done
    assert "'HOME'" in seen[4]  # the program did look around
    assert not [text for text in seen if SENTINEL in text]


def played(expected):
    tokenizer = FORMS["chatml_json"].tokenizer
    chat = chat_tokens(tokenizer)

    class Own(ChainMath):
        def make_task(self):
            first = super().make_task()
            self.expected_answer = expected
            return first

    env = Own(horizon=1)

    class Solver:
        async def generate(self, prompt_ids, max_tokens):
            ids = [*tokenizer.encode(env.solution(), add_special_tokens=False), chat.end_of_turn_id]
            return Generation(ids, [-0.5] * len(ids), True)

    episode = asyncio.run(run_episode(lambda: env, Solver(), chat, Limits(max_turn_tokens=4096), env_id="x", seed=3))
    return episode, tokenizer.decode([*episode.prompt_ids, *episode.response_ids])


@pytest.mark.parametrize(("given", "kept"), [(SENTINEL, SENTINEL), (None, None), (42, "42"), ("a" * 5000, "a" * 2000)])
def test_the_record_of_an_episode_has_it_and_its_tokens_do_not(given, kept):
    episode, text = played(given)
    assert episode.success
    assert json.loads(json.dumps(episode_record(episode)))["expected_answer"] == kept
    assert SENTINEL not in text


def test_an_environment_without_one_plays_on():
    class Plain(gymnasium.Env):
        system_prompt, tool_schemas = "", ()

        def reset(self, seed=None, options=None):
            return "go", {}

        def step(self, action):
            return "", 1.0, True, False, {"role": "user", "num_tool_calls": 0, "malformed": False, "success": True}

    tokenizer = FORMS["chatml_json"].tokenizer
    chat = chat_tokens(tokenizer)

    class Once:
        async def generate(self, prompt_ids, max_tokens):
            return Generation([chat.end_of_turn_id], [-0.5], True)

    episode = asyncio.run(run_episode(Plain, Once(), chat, Limits(), env_id="x", seed=0))
    assert (episode.success, episode.expected_answer) == (True, None)


def test_chain_math_tells_how_far_an_episode_came_and_what_the_last_call_gave():
    names = ("steps_done_frac", "answered_early", "last_result_right")
    with gymnasium.make("trm/ChainMath-v0", horizon=2) as made:
        env = made.unwrapped
        env.reset(seed=3)
        env.step(env.solution())
        *_, info = env.step(env.answer(env.expected_answer))
        assert not info["success"]
        assert [info["numbers"][name] for name in names] == [0.5, 1.0, 1.0]
        env.reset(seed=3)
        for _ in range(2):
            env.step(env.solution())
        *_, info = env.step(env.answer("-12345"))
        assert not info["success"]
        assert [info["numbers"][name] for name in names] == [1.0, 0.0, 1.0]
        env.reset(seed=3)
        env.step(env.solution())
        env.step(env.call("calculator", expression="1+12345"))
        *_, info = env.step(env.answer("12346"))
        assert not info["success"]
        assert [info["numbers"][name] for name in names] == [1.0, 0.0, 0.0]
