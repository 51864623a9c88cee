"""No text of a model takes an episode out of the rates: a corpus, in every environment and every protocol."""

import contextlib
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest

import trm_envs
from tests.envs.fusion_support import running_server
from tests.envs.sandbox_support import needs_bubblewrap
from trm_envs.checking.subject import supported_protocols
from trm_envs.fuzz import TurnFuzzer
from trm_envs.sandbox import LocalSandbox

pytestmark = [pytest.mark.slow, needs_bubblewrap, pytest.mark.filterwarnings("ignore:sandbox=unsafe")]
NUM_FUZZ = 400
PROGRAMS = (
    "import time; time.sleep(9)",
    "while True: pass",
    "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "import os; os._exit(3)",
    "import sys; sys.exit(0)",
    "def f(): f()\nf()",
    "x = bytearray(10**11)",
    "x = []\nwhile True: x.append(bytearray(10**6))",
    "while True: print('x' * 10000)",
    "import os; os.closerange(0, 300)",
    "print('\\x00\\ud800')",
    "x = '\ud800'",
    "x = '\udc80'; print(x)",
    "x = '\x00'",
    "input()",
    "import threading, time\nfor _ in range(100): threading.Thread(target=time.sleep, args=(9,)).start()",
    "import os, shutil; shutil.rmtree(os.getcwd(), ignore_errors=True); os._exit(1)",
    "import os; os.chmod('.', 0); os._exit(1)",
    "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(9)\nprint(1)",
    "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'{}' * 100)\n    except OSError: pass",
    "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "import os; os.execv('/bin/sh', ['sh', '-c', 'sleep 9'])",
    "import atexit; atexit.register(lambda: [None for _ in iter(int, 1)])",
    "raise KeyboardInterrupt",
    "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
    "import time\nif time.time_ns() // 10**7 % 2: raise ValueError",
    "import random\nif random.random() < 0.5: raise SystemExit",
    "import ctypes; ctypes.string_at(0)",
    "del __builtins__",
    "x = 1" + "\n#" * 100_000,
    "print('</tool_call><|im_end|>\\n<|im_start|>system\\n<tool_response>')",
)
TURNS = (
    "",
    "\x00",
    "\ud800",
    "<|im_start|>assistant\n<|im_end|><tool_response></tool_response>[INST]<|eot_id|>",
    "<think>",
    "\\boxed{9^{9^{9^9}}}",
    "\\boxed{7\\text{ dozen}}",
    "\\boxed{\\frac{1}{0}}",
    "\\boxed{" * 2000,
    "<answer>" + "9" * 5000 + "</answer>",
    "<tool_call>" + "[" * 5000,
)
ENVS = {
    "trm/ChainMath-v0": {},
    "trm/LongExecution-v0": {"horizon": 2},
    "trm/PythonMath-v0": {"tool_timeout_s": 0.2},
    "trm/ComposedMath-v0": {"tool_timeout_s": 0.2},
    "trm/CodeTests-v0": {"tool_timeout_s": 0.2},
    "trm/CodeRepair-v0": {"tool_timeout_s": 0.2},
    "trm/ReasoningGym-v0": {"tool_timeout_s": 0.2, "horizon": 2, "split": "all"},
}


@contextlib.contextmanager
def opened(env_id: str, protocol: str, **options: Any) -> Iterator[trm_envs.ToolEnv]:
    env: Any = gymnasium.make(env_id, disable_env_checker=True, protocol=protocol, **{**ENVS[env_id], **options})
    env = env.unwrapped
    env.tool_time.set_limits(0.3, 1.0)
    try:
        yield env
    finally:
        env.close()


def protocols_of(env_id: str) -> list[str]:
    with opened(env_id, "hermes") as env:
        return supported_protocols(env)


def play(env: trm_envs.ToolEnv, turns: list[str]) -> None:
    """Step through turns, with a new task after each end; an exception is a failure of the test."""
    is_over = True
    for turn in turns:
        if is_over:
            env.reset(seed=3)
        observation, reward, terminated, truncated, info = env.step(turn)
        is_over = terminated or truncated
        observation.encode()
        assert math.isfinite(reward)
        assert "scorer_error" not in info, turn[:200]
        assert not truncated or info["stop_reason"] == "max_tool_time"


def written(env: trm_envs.ToolEnv, program: str) -> Iterator[str]:
    """A program in the calls of an environment, once and 32 times, then an answer."""
    for tool in env._tools:
        if tool.parameters["required"] == ["code"]:
            with contextlib.suppress(ValueError):
                call = env.call(tool.name, code=program)
                yield from (call, f"{call}\n" * 32, call, env.answer("1"))


@pytest.mark.parametrize("env_id", ["trm/PythonMath-v0", pytest.param("trm/CodeTests-v0", marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", ["local", pytest.param("http", marks=pytest.mark.slow)])
def test_no_program_voids_an_episode(env_id: str, place: str) -> None:
    programs = PROGRAMS[::2] if place == "http" else PROGRAMS[1::6]
    with contextlib.ExitStack() as stack:
        sandbox = place
        if place == "http":
            sandbox = stack.enter_context(running_server(stack.enter_context(LocalSandbox(max_concurrent=2))))
        env = stack.enter_context(opened(env_id, "hermes", sandbox=sandbox))
        for program in programs:
            play(env, list(written(env, program)))


@pytest.mark.parametrize("env_id", ENVS)
def test_no_turn_voids_an_episode(env_id: str) -> None:
    for protocol in protocols_of(env_id):
        with opened(env_id, protocol) as env:
            play(env, [*TURNS, *(env.answer(turn) for turn in TURNS[:4])])


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ENVS)
def test_a_corpus_of_fuzz_voids_no_episode(env_id: str) -> None:
    """Each of 2,000 texts in every environment; the protocols take turns, shifted from environment to environment."""
    names = protocols_of(env_id)
    shift = list(ENVS).index(env_id)
    texts = list(itertools.islice(corpus(), NUM_FUZZ))
    assert len(texts) == NUM_FUZZ
    for number, protocol in enumerate(names):
        with opened(env_id, protocol) as env:
            play(env, [text for place, text in enumerate(texts) if (place + shift) % len(names) == number])


def corpus() -> Iterator[str]:
    turns, names = list(TURNS), []
    for env_id in ENVS:
        for protocol in protocols_of(env_id):
            with opened(env_id, protocol) as env:
                env.reset(seed=0)
                turns += [env.solution(), env.answer("0")]
                names += [name for tool in env._tools for name in (tool.name, *tool.parameters["properties"])]
    return iter(TurnFuzzer(turns, names, 11))


def test_the_programs_are_text_that_a_call_can_hold() -> None:
    assert all(json.loads(json.dumps(program)) == program for program in PROGRAMS)
