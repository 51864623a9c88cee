r"""The contract of a tool-using text environment.

One action is the full text of one assistant turn; one observation is the text of the message that answers it. A
subclass says four things: its options, its tools, how a task is drawn, how an answer is scored.
"""

import dataclasses
import difflib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import gymnasium
from gymnasium.error import ResetNeeded

from trm_envs.protocols import parse_turn
from trm_envs.spaces import UnicodeText
from trm_envs.tools import Tool, ToolResult, run_tool_call

SPLITS = ("train", "held_out")
MAX_HORIZON = 10_000
NUDGE = "Call a tool, or give the final answer as \\boxed{...}."


@dataclasses.dataclass(frozen=True)
class EnvOptions:
    """What every environment lets its user choose, in `gymnasium.make` or in `reset(options=...)`.

    Raises:
        ValueError: if a value is not allowed.
    """

    horizon: int = 4
    """How many dependent steps a task has, 1 to 10000."""
    split: str = "train"
    """Which tasks are drawn: "train" or "held_out"; no task is in both."""

    def __post_init__(self) -> None:
        if not isinstance(self.horizon, int) or isinstance(self.horizon, bool) or not 1 <= self.horizon <= MAX_HORIZON:
            raise ValueError(f"horizon = {self.horizon!r}: expected an integer from 1 to {MAX_HORIZON}; e.g. horizon=4")
        check_choice("split", self.split, SPLITS)


OptionsT = TypeVar("OptionsT", bound=EnvOptions)


def check_choice(field: str, value: Any, choices: Sequence[str]) -> None:
    """Raise a ValueError that names the closest choice if `value` is none of them."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f'pass e.g. "{choices[0]}"'
        raise ValueError(f"{field} = {value!r}: expected one of {', '.join(choices)}; {hint}")


class ToolEnv(gymnasium.Env[str, str], Generic[OptionsT]):
    """Base class of the environments.

    Args:
        **options: defaults for the fields of `options_class`; `reset(options=...)` overrides them for one episode.

    Raises:
        ValueError: if an option is unknown or its value is not allowed.
    """

    options_class: ClassVar[type[EnvOptions]] = EnvOptions
    system_prompt: str = ""
    tools: tuple[Tool, ...] = ()

    def __init__(self, **options: Any) -> None:
        self.action_space = UnicodeText()
        self.observation_space = UnicodeText()
        self._defaults = self._with_options(self.options_class(), options)
        self.options: OptionsT = self._defaults
        self.task_id = ""
        self._running = False

    @abstractmethod
    def make_task(self) -> str:
        """Draw a task from `self.np_random` by `self.options`, set `self.task_id`, return the first user message."""

    @abstractmethod
    def score(self, answer: str) -> float:
        """Return the reward of a final answer, 0 to 1; 1 is success."""

    @abstractmethod
    def solution(self) -> str:
        """Return what the scripted solver writes as its next assistant turn in the current state."""

    def follow_up(self, results: Sequence[ToolResult]) -> str:
        """Return the message that answers the tool calls of one turn. Subclasses add what the task says next."""
        return "\n".join(result.text for result in results)

    @property
    def tool_schemas(self) -> list[dict[str, Any]]:
        """The tools as OpenAI function schemas."""
        return [tool.schema for tool in self.tools]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a new task.

        Args:
            seed: seed of `self.np_random`; None goes on with the present one.
            options: overrides of the options for this episode.

        Returns:
            The first user message and `{"task_id": str, "horizon": int}`.

        Raises:
            ValueError: if an option is unknown or its value is not allowed.
        """
        super().reset(seed=seed)
        self.options = self._with_options(self._defaults, options or {})
        first_message = self.make_task()
        self._running = True
        return first_message, {"task_id": self.task_id, "horizon": self.options.horizon}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer one assistant turn.

        Args:
            action: the turn's text without the end-of-turn token.

        Returns:
            observation, reward, terminated, truncated and info: "role" of the observation ("tool" or "user"),
            "num_tool_calls" executed, "malformed" (a call that could not be run), at the end "success".

        Raises:
            TypeError: if the action is not text.
            ResetNeeded: if the episode has not begun or is over.
        """
        if not isinstance(action, str):
            raise TypeError(f"action is {type(action).__name__}: expected str, the text of one assistant turn")
        if not self._running:
            raise ResetNeeded("the episode has not begun or is over; call reset() first")
        turn = parse_turn(action)
        if turn.malformed is not None:
            return f"Error: {turn.malformed}", 0.0, False, False, _info("tool", malformed=True)
        if turn.calls:
            results = [run_tool_call(self.tools, call) for call in turn.calls]
            num_executed = sum(result.executed for result in results)
            info = _info("tool", num_tool_calls=num_executed, malformed=num_executed < len(results))
            return self.follow_up(results), 0.0, False, False, info
        if turn.answer is None:
            return NUDGE, 0.0, False, False, _info("user")
        self._running = False
        reward = float(self.score(turn.answer))
        return "", reward, True, False, {**_info("user"), "success": reward >= 1.0}

    @classmethod
    def _with_options(cls, base: Any, changes: dict[str, Any]) -> Any:
        names = [field.name for field in dataclasses.fields(cls.options_class)]
        for name in changes:
            check_choice(f"{cls.__name__} option", name, names)
        return dataclasses.replace(base, **changes)


def _info(role: str, num_tool_calls: int = 0, malformed: bool = False) -> dict[str, Any]:
    return {"role": role, "num_tool_calls": num_tool_calls, "malformed": malformed}
