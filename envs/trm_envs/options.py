"""The options of every environment, and the refusal of values that are not allowed."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from trm_envs.protocols import PROTOCOLS, TurnProtocol
from trm_fields import OneOf, between, refuse

SPLITS = ("train", "held_out", "all")
HELD_OUT_FRACTION = 0.2
MAX_HORIZON = 10_000


@dataclasses.dataclass(frozen=True)
class EnvOptions:
    """Options of every environment, given to `gymnasium.make` or to `reset(options=...)`.

    Raises:
        ValueError: if a value is not allowed.
    """

    horizon: int = 4
    """Number of dependent steps of a task, 1 to 10000."""
    split: str = "train"
    """Split that tasks are drawn from: "train" or "held_out" (no task is in both), or "all" of them."""
    protocol: str = "hermes"
    """Syntax of tool calls and answers: "hermes", "fenced", "tags", "function_tags" or "arg_tags"."""
    max_observation_chars: int = 20_000
    """Characters of a turn's observation; a longer text loses its middle, with a visible mark."""

    @property
    def turn_protocol(self) -> TurnProtocol:
        """Return the protocol that `protocol` names."""
        return PROTOCOLS[self.protocol]

    @property
    def prompt_note(self) -> str:
        """Return the system prompt's words on these options, beside the task; "" for none."""
        return ""

    def __post_init__(self) -> None:
        check_integer("horizon", self.horizon, 1, MAX_HORIZON)
        check_choice("split", self.split, SPLITS)
        check_choice("protocol", self.protocol, tuple(PROTOCOLS))
        check_integer("max_observation_chars", self.max_observation_chars, 100, 1_000_000)


def split_of(key: str) -> str:
    """Return the split, "train" or "held_out", of the task with this key."""
    return "held_out" if int(digest(key)[:8], 16) < HELD_OUT_FRACTION * 2**32 else "train"


def digest(key: str) -> str:
    """Return a hash of a task's key."""
    if not isinstance(key, str):
        refuse("make_task", key, "the first message as a text, and self.task_key as one where it is set", "return one")
    return hashlib.sha256(key.encode()).hexdigest()


def check_choice(field: str, value: Any, choices: Sequence[str]) -> None:
    """Raise a ValueError that names the closest choice if `value` is not among them."""
    OneOf(choices).check(field, value)


def check_integer(field: str, value: Any, least: int, most: int) -> None:
    """Raise a ValueError if `value` is not an integer from `least` to `most`."""
    between(least, most, int).check(field, value, f"give one, such as {least}")


def check_seconds(field: str, value: Any) -> None:
    """Raise a ValueError if `value` is not a number of seconds that a step can take."""
    between(0.01, 3600).check(field, value, "give seconds, such as 5")


def check_sandbox(field: str, value: Any) -> None:
    """Raise a ValueError if `value` names no sandbox."""
    if not (isinstance(value, str) and value.startswith(("http://", "https://"))):
        OneOf(("local", "unsafe"), "the URL of a SandboxFusion server").check(field, value)


def as_unicode(text: str) -> str:
    """Return the text with the halves of surrogate pairs joined, and replacement marks for halves that are alone.

    A message that repeats a model's own text may hold such halves, which no tokenizer takes.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def cut_middle(text: str, max_chars: int) -> str:
    """Return the text, or its start and end around a mark with the number of characters cut."""
    if len(text) <= max_chars:
        return text
    mark = f"\n... [{len(text) - max_chars} characters cut] ...\n"
    keep = max(max_chars - len(mark), 0)
    return text[: keep - keep // 2] + mark + text[len(text) - keep // 2 :]
