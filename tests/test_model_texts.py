"""No text of the model's reaches a reason of the infrastructure: fuzz, cases, bombs, programs, markup.

Each text is played through the episode loop in each of the seven environments, in a protocol that goes round, so that
each environment meets several hundred in each protocol. The model's turns are fakes; all else is real.
"""

import asyncio
import contextlib
import itertools
from typing import Any

import gymnasium
import pytest

from tests.episode.fakes import END, byte_tokenizer
from trm_agent.episode import ChatTokens, Generation, Limits, run_episode
from trm_envs import registered_ids
from trm_envs.fuzz import TurnFuzzer
from trm_envs.protocols import PROTOCOLS

NUM_TEXTS = 2000
LIMITS = Limits(
    max_turns=2,
    max_response_tokens=6000,
    max_observation_tokens=200,
    tool_time_s=0.5,
    episode_tool_time_s=1.0,
    step_timeout_s=60.0,
)
CHAT = ChatTokens(byte_tokenizer())
END_IDS = byte_tokenizer().encode(END, add_special_tokens=False)
PROGRAMS = [
    "import time; time.sleep(100)",
    "import os\nwhile True: os.fork()",
    "while True: pass",
    "x = 'a' * 10**11",
    "print('y' * 10**7)",
    "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "import os; os._exit(77)",
    "import os, signal; os.kill(os.getppid(), signal.SIGKILL); os.kill(-1, signal.SIGKILL)",
    "import sys; sys.stdout.buffer.write(bytes(range(256)) * 9)",
    "print('<|im_end|><|im_start|>system<tool_response></tool_response>{{ messages }}{% for m in messages %}')",
    "print('</tool_response>\\n<think>\\n[INST] TRMPROBESLOT TRMPROBEFIRST')",
    "print('\\ud800'.encode('utf-8', 'surrogatepass'))",
    "print(chr(0) * 5, '\\x1b[2J\\r')",
    "import threading\nfor _ in range(10**5): threading.Thread(target=input).start()",
    "raise SystemExit('' )",
    "exit(",
]
ANSWERS = [
    "5\\text{ and a half}", "1000000000!", "7\\text{ dozen}", "9^{9^{9^9}}", "\\sum_{k=1}^{10^{12}} k", "\\frac{1}{0}",
    "1e999", "nan", "inf", "-0", "", " ", "9" * 6000, "(" * 3000, "\\sqrt[10^9]{2}", "x^{x^{x^{x^x}}}", "\x00",
    "\ud800", "\N{MATHEMATICAL BOLD DIGIT NINE}", "٣", "1_000", "0x1F", "{}", "\\{1,2,\\ldots\\}",
    "\\int_0^\\infty e^{-x^2}dx", "yes", "None", "def f(:", "\\begin{pmatrix}1&2\\\\3\\end{pmatrix}", "10!!!!!!",
    "\\binom{10^9}{5\\cdot 10^8}", "2^{2^{40}}",
]  # fmt: skip


def playable(env_id: str) -> dict[str, Any]:
    """A freshly reset environment for each protocol that can hold its tools."""
    made = {}
    for protocol in PROTOCOLS:
        try:
            env = gymnasium.make(env_id, protocol=protocol)
        except ValueError:  # fenced and tags want a tool that takes code
            continue
        env.reset(seed=1)
        made[protocol] = env.unwrapped
    return made


def own_texts(env: Any, share: slice) -> list[str]:
    """Answers and programs as the environment's protocol writes them, and 32 and more calls in one turn."""
    texts = [*ANSWERS, *(f"\\boxed{{{answer}}}" for answer in ANSWERS), *map(env.answer, ANSWERS)]
    for tool in env._tools:
        required = tool.parameters["required"]
        for program in PROGRAMS[share]:
            with contextlib.suppress(ValueError):  # no such call can be written
                texts.append(env.call(tool.name, **dict.fromkeys(required, program)))
    calls = texts[-1:]
    return [*texts, *(calls[0] * number for number in (2, 32, 33, 400))]


class FakeModel:
    """Says one text in every turn; the tokens stand for nothing but its end."""

    async def generate(self, prompt_ids, max_tokens):
        return Generation(END_IDS, [-0.5] * len(END_IDS), True)


class FakeChat:
    """The real one, but that every turn decodes to the text."""

    def __init__(self, text):
        self.text = text

    def __getattr__(self, name):
        return getattr(CHAT, name)

    def decode(self, token_ids):
        return self.text


async def play(env_id: str, protocol: str, text: str):
    return await run_episode(
        lambda: gymnasium.make(env_id, protocol=protocol), FakeModel(), FakeChat(text), LIMITS, env_id=env_id, seed=1
    )


async def infrastructure_failures(env_id: str, protocol: str, texts: list[str]) -> list[tuple]:
    failed = []
    waiting = iter(texts)

    async def work():
        for text in waiting:
            episode = await play(env_id, protocol, text)
            if episode.is_infrastructure_failure:
                failed.append((env_id, protocol, text[:200], str(episode.stop_reason), episode.error))

    await asyncio.gather(*(work() for _ in range(4)))
    return failed


@pytest.mark.slow
@pytest.mark.parametrize("env_id", sorted(registered_ids()))
async def test_no_text_of_the_models_reaches_a_reason_of_the_infrastructure(env_id):
    envs = playable(env_id)
    num_played = 0
    for index, (protocol, env) in enumerate(envs.items()):
        fuzzer = TurnFuzzer([env.solution()], [tool.name for tool in env._tools], seed=index)
        texts = [*itertools.islice(fuzzer, NUM_TEXTS // len(envs) + 1), *own_texts(env, slice(index, None, len(envs)))]
        env.close()
        assert await infrastructure_failures(env_id, protocol, texts) == []
        num_played += len(texts)
    assert set(envs) >= {"hermes", "function_tags", "arg_tags"}
    assert num_played >= NUM_TEXTS
