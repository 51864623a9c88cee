"""Seeded model outputs beyond all expectation: random ones, and damaged turns of a solver."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

MAX_CHARS = 20_000
LONG_CHARS = 300_000
# One output in this many is very long or deeply nested, which costs milliseconds.
LONG_EVERY = 1000
T = TypeVar("T")
MAX_MUTATIONS = 4
ALPHABET = "abcXYZ 0123456789+-*/=^_{}[]()<>\"'\\`:;,.!?#$%&|~\n\t\r\x00\x1b\u200b\u202eäßñ中文🙂\ud800\udfff\U0010ffff"
FRAGMENTS = (
    "<tool_call>", "</tool_call>", "<tool_call>\n{}\n</tool_call>", '{"name": ', '"arguments": {', "}}", "<answer>",
    "</answer>", "<think>", "</think>", "```python\n", "```", "\n```\n", "```bash\n", "\\boxed{", "\\boxed{}", "}", "{",
    "\\frac{1}{0}", "\\text{", "$", "NaN", "Infinity", "-Infinity", "1e999", "-0", "null", "true", "[]", "0x1F",
    "9" * 5000, "9**9**9**9", "9^{9^{9^9}}", "1/0", "__import__('os')", "\\u0000", "\\ud800", "<|im_end|>", "</s>",
    "\x00", "\ufeff", "\u2028", "%s%n{0}", "'; --", "../../etc/passwd",
    "<function=", "</function>", "<parameter=", "</parameter>", "\n</parameter>\n</function>", "<arg_key>",
    "</arg_key>", "<arg_value>", "</arg_value>", "~~~python\n", "\n~~~\n", "````python\n", "\n````\n", "1. ```py\n",
    "```{python}\r\n", "<|im_start|>assistant\n", "<|im_start|>user\n", "<|user|>", "<|assistant|>", "<|observation|>",
    "<|eot_id|>", "<|start_header_id|>user<|end_header_id|>\n\n", "<|python_tag|>", "<|endoftext|>", "[INST]",
    "[/INST]", "[TOOL_CALLS][", "<tool_response>\n", "\n</tool_response>", "{{ messages }}",
    "{%- for m in messages %}",
)  # fmt: skip
NESTS = (
    ("[", "]"), ("{", "}"), ('{"a":', "}"), ("\\boxed{", "}"), ("<tool_call>", "</tool_call>"), ("(", ")"),
    ("<think>", "</think>"),
    ("<tool_call>\n<function=a>\n<parameter=b>\n", "\n</parameter>\n</function>\n</tool_call>"),
    ("<tool_call>a\n<arg_key>b</arg_key>\n<arg_value>", "</arg_value>\n</tool_call>"),
)  # fmt: skip
LONG_PIECES = (
    "a", " ", "\n", "```\n", "\\boxed{", "<tool_call>", "<think>", "</think>", "</parameter>\n", "</arg_value>\n", "- ",
)  # fmt: skip


class TurnFuzzer:
    """An endless, seeded stream of model outputs.

    Args:
        turns: a solver's texts, in any protocols: the material of the mutations; may be empty.
        names: words with a meaning to the environment, such as its tools' names.
        seed: seed of the stream.
    """

    def __init__(self, turns: Sequence[str], names: Sequence[str] = (), seed: int = 0) -> None:
        self._turns = tuple(turns) or ("\\boxed{0}",)
        self._fragments = (*FRAGMENTS, *names, *(f"<{name}>" for name in names), *(f"</{name}>" for name in names))
        self._rng = np.random.default_rng(seed)
        self._mutations: Sequence[Callable[[str], str]] = (
            self._delete, self._duplicate, self._swap, self._insert_fragment, self._insert_noise, self._splice,
            self._damage_tag, self._flip, self._huge_number,
        )  # fmt: skip

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        kind = int(self._rng.integers(LONG_EVERY))
        if kind == 0:
            return self._long() if self._rng.random() < 0.5 else self._nest()
        if kind < LONG_EVERY // 10:
            return self._noise(200)
        if kind < LONG_EVERY // 5:
            return "".join(self._pick(self._fragments) for _ in range(self._below(8)))
        text = self._pick(self._turns)
        for _ in range(self._below(MAX_MUTATIONS + 1)):
            text = self._pick(self._mutations)(text)
        return text[:MAX_CHARS]

    def _below(self, limit: int) -> int:
        return int(self._rng.integers(max(limit, 1)))

    def _pick(self, choices: Sequence[T]) -> T:
        return choices[self._below(len(choices))]

    def _span(self, text: str, most: int = 40) -> tuple[int, int]:
        start = self._below(len(text) + 1)
        return start, min(start + self._below(most), len(text))

    def _noise(self, most: int) -> str:
        return "".join(ALPHABET[int(i)] for i in self._rng.integers(len(ALPHABET), size=self._below(most)))

    def _delete(self, text: str) -> str:
        start, stop = self._span(text)
        return text[:start] + text[stop:]

    def _duplicate(self, text: str) -> str:
        start, stop = self._span(text, most=len(text) + 1)
        return text[:stop] + text[start:stop] * (1 + self._below(3)) + text[stop:]

    def _swap(self, text: str) -> str:
        one, two = sorted((self._below(len(text) + 1), self._below(len(text) + 1)))
        return text[two:] + text[one:two] + text[:one]

    def _insert(self, text: str, piece: str) -> str:
        place = self._below(len(text) + 1)
        return text[:place] + piece + text[place:]

    def _insert_fragment(self, text: str) -> str:
        return self._insert(text, self._pick(self._fragments))

    def _insert_noise(self, text: str) -> str:
        return self._insert(text, self._noise(20))

    def _splice(self, text: str) -> str:
        other = self._pick(self._turns)
        return text[: self._below(len(text) + 1)] + other[self._below(len(other) + 1) :]

    def _damage_tag(self, text: str) -> str:
        places = [i for i, char in enumerate(text) if char in '<>{}"\\`/']
        if not places:
            return text
        place = self._pick(places)
        return text[:place] + self._pick(("", "<", ">", "{", '"', "\\", " ")) + text[place + 1 :]

    def _flip(self, text: str) -> str:
        place = self._below(len(text))
        return text[:place] + self._pick(ALPHABET) + text[place + 1 :]

    def _huge_number(self, text: str) -> str:
        places = [i for i, char in enumerate(text) if char.isdigit()]
        if not places:
            return text
        place = self._pick(places)
        digits = self._pick(("", "-1", "1e308", "9" * 30, "9" * 5000, "0.1", "٣", "²"))
        return text[:place] + digits + text[place + 1 :]

    def _long(self) -> str:
        turn = self._pick((*self._turns, *LONG_PIECES))
        return (turn * (LONG_CHARS // max(len(turn), 1) + 1))[:LONG_CHARS]

    def _nest(self) -> str:
        opening, closing = NESTS[self._below(len(NESTS))]
        depth = 10 ** (1 + self._below(4)) * 3
        inner = self._pick(self._turns)
        text = opening * depth + inner + closing * (depth if self._rng.random() < 0.5 else depth // 2)
        return f"<tool_call>{text}</tool_call>" if self._rng.random() < 0.3 else text
