"""Fakes for the episode tests: small tokenizers, a scripted generator, environments that behave and misbehave."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trm_agent.episode import ChatTokens, Episode, Generation, Limits, run_episode

START, END = "<|im_start|>", "<|im_end|>"
CHATML = """\
{%- if tools or messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- endif %}
    {%- for tool in tools or [] %}{{- '\n' + tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
    {%- elif message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- for call in message.tool_calls %}
            {{- '\n<tool_call>\n' + call.function | tojson + '\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role != 'system' %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
WORDS = [
    "system",
    "user",
    "assistant",
    "call",
    "add",
    "five",
    "bad",
    "go",
    "rules",
    "<tool_response>",
    "</tool_response>",
]


@functools.cache
def word_tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    """One token a word, space or newline. Its vocabulary holds the special tokens' strings as words too."""
    vocab = {word: index for index, word in enumerate(["<unk>", START, END, "→", "\n", " ", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in (START, END, "→")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token="<unk>", chat_template=template)


@functools.cache
def byte_tokenizer(template: str = CHATML, eos: str = END) -> PreTrainedTokenizerFast:
    """Byte-level BPE that merges across newlines and punctuation, with a non-special tag as in Qwen3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", START, END, "→"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [
        "system user assistant tool_response result hello world\n\n the sum is 12",
        '{"result": "five"}\n</tool',
        CHATML,
    ] * 3
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, chat_template=template)


class ScriptedGenerator:
    """Answers with scripted turns of word tokens; log-probs count down by a tenth over the episode.

    A turn longer than `max_tokens` is cut, as an engine would.
    """

    def __init__(self, tokenizer: Any, turns: Sequence[str], delay_s: float = 0.0) -> None:
        self.turns = [tokenizer.encode(text, add_special_tokens=False) for text in turns]
        self.delay_s = delay_s
        self.calls: list[tuple[list[int], int]] = []
        self._num_tokens = 0

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Generation:
        turn = self.turns[len(self.calls) % len(self.turns)]
        self.calls.append((list(prompt_ids), max_tokens))
        await asyncio.sleep(self.delay_s)
        token_ids = turn[:max_tokens]
        log_probs = [-(self._num_tokens + index + 1) / 10 for index in range(len(token_ids))]
        self._num_tokens += len(token_ids)
        finished = len(turn) <= max_tokens
        return Generation(token_ids, log_probs, finished, {"call": len(self.calls)})


class FakeEnv:
    """Answers with scripted (role, observation) pairs and ends with success after the last."""

    system_prompt = "rules"
    tool_schemas: Sequence[dict[str, Any]] = ()

    def __init__(self, answers: Sequence[tuple[str, str]] = (), reward: float = 0.25, calls: int = 1) -> None:
        self.answers, self.reward, self.num_tool_calls = list(answers), reward, calls
        self.seen: list[str] = []
        self.closed = threading.Event()
        self.threads: set[str] = set()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.threads.add(threading.current_thread().name)
        self.reset_with = (seed, options)
        return "go", {"task_id": "fake", "horizon": len(self.answers)}

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        self.threads.add(threading.current_thread().name)
        self.seen.append(action)
        info: dict[str, Any] = {"num_tool_calls": self.num_tool_calls, "malformed": False}
        if len(self.seen) > len(self.answers):
            return "over", self.reward, True, False, {**info, "role": "user", "success": True}
        role, observation = self.answers[len(self.seen) - 1]
        return observation, self.reward, False, False, {**info, "role": role}

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed.set()


class FakeEnvThat(FakeEnv):
    """Does something bad at one place: "make", "reset", "step" or "close"."""

    def __init__(self, place: str, deed: Callable[[], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.place, self.deed = place, deed
        self._at("make")

    def _at(self, place: str) -> None:
        if place == self.place:
            self.deed()

    def reset(self, **kwargs: Any) -> tuple[str, dict[str, Any]]:
        self._at("reset")
        return super().reset(**kwargs)

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        self._at("step")
        return super().step(action)

    def close(self) -> None:
        self._at("close")
        super().close()


def raises(error: BaseException) -> Callable[[], None]:
    """A deed that raises."""

    def deed() -> None:
        raise error

    return deed


class Hang:
    """A deed that blocks its thread until the test lets go, at most 20 s."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def __call__(self) -> None:
        self.let_go.wait(20)


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    """Polls a condition that another thread makes true."""
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def draw(episode: Episode, decode: Callable[[list[int]], str]) -> str:
    """The response, one token a line: text, who wrote it, log-prob; a blank line between spans."""
    starts = {turn.token_span[0] for turn in episode.turns}
    starts |= {turn.observation_span[0] for turn in episode.turns if turn.observation_span}
    lines = []
    rows = zip(episode.response_ids, episode.response_mask, episode.rollout_log_probs, strict=True)
    for position, (token, sampled, log_prob) in enumerate(rows):
        if position in starts and position:
            lines.append("")
        text = decode([token]).replace("\n", "\\n")
        lines.append(f"{text:<18}{'model  ' if sampled else 'context'} {log_prob:.1f}")
    return "\n".join(lines)


TOKENIZER = word_tokenizer()
CHAT = ChatTokens(TOKENIZER)
ENDLESS = [("tool", "five")] * 50


async def play(env, generator, limits=None, **kwargs):
    """An episode of a ready environment."""
    return await run_episode(lambda: env, generator, CHAT, limits or Limits(), env_id="fake", **kwargs)


def scripted(*turns, **kwargs):
    return ScriptedGenerator(TOKENIZER, turns, **kwargs)
