"""The contract of a tool-using text environment.

One action is the full text of one assistant turn; one observation is the text of the message that answers it. A
subclass defines three things: the drawing of a task, the tools, and the score of an answer.
"""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import gymnasium
from gymnasium.error import ResetNeeded

from trm_envs.answer_forms import BOX, read_answer, show_form, write_answer
from trm_envs.errors import ScorerFailed, describe
from trm_envs.judged import finite, judged, numbers, text, text_or_none
from trm_envs.options import EnvOptions, as_unicode, check_choice, cut_middle, digest, split_of
from trm_envs.protocols import TurnProtocol
from trm_envs.spaces import UnicodeText
from trm_envs.tool_time import LEAST_S, ToolTime
from trm_envs.tools import TIME_LIMIT, Tool, ToolResult, run_turn, tools_of
from trm_envs.turn import ParsedTurn
from trm_fields import refuse

MAX_DRAWS = 1000
MAX_CALLS = 32
NOTHING: Any = {"success": False, "numbers": {}}
OVERRUN_S = 5.0
Step = tuple[str, float, bool, bool, dict[str, Any]]
OptionsT = TypeVar("OptionsT", bound=EnvOptions)


class ToolEnv(gymnasium.Env[str, str], Generic[OptionsT]):
    r"""Base class of the environments.

    Args:
        **options: defaults for the fields of `options_class`; `reset(options=...)` overrides them for one episode.

    Attributes:
        options_class: the dataclass of the options.
        system_prompt: the first message to the model; `{answer}` becomes `\boxed{...}`. `make_task` may set another.
        answer_form: the text between the braces of that form.
        tools: functions with type hints; methods marked with `@tool` come on top of these.
        task_key: the task's identity, if the first message does not define it; `make_task` may set it. Its hash
            decides the split.
        tool_time: the budget of time for code that runs on the model's text, with the time used.
        task_split: the task's split if `make_task` decides it itself, as a task of parts must; if empty, the hash does.
        expected_answer: the right answer for people who read episodes, if `make_task` sets it; never shown to a model.
        one_task: True for a game that is always the same: it belongs to every split, so its results are not held out.
        reward_range: bounds of an episode's return, which is the sum of its rewards.
        unfinished_reward: the largest return of an episode that the environment did not end itself, such as one that a
            limit cut. Where rewards can be negative it must be low, or else a policy does best by never finishing.

    Raises:
        ValueError: if an option is unknown or its value is not allowed.
    """

    options_class: ClassVar[type[EnvOptions]] = EnvOptions
    system_prompt: str = ""
    answer_form: str = "..."
    tools: Sequence[Tool | Callable[..., Any]] = ()
    task_key: str = ""
    task_split: str = ""
    expected_answer: str | None = None
    one_task: bool = False
    reward_range: tuple[float, float] = (0.0, 1.0)
    unfinished_reward: float = math.inf

    def __init__(self, **options: Any) -> None:
        self.action_space = UnicodeText()
        self.observation_space = UnicodeText()
        self._tools = tools_of(type(self))
        self._defaults = self._with_options(self.options_class(), options)
        self.options: OptionsT = self._defaults
        self.tool_time = ToolTime()
        self.task_id, self._running, self._most_calls = "", False, math.inf
        self._rewards: list[float] = []

    @abstractmethod
    def make_task(self) -> str:
        """Draw a task from `self.np_random` by `self.options` and return the first user message."""

    @abstractmethod
    def score(self, answer: str) -> float:
        """Return the reward of a final answer, 0 to 1; 1 is success.

        Raises:
            VerifierError: if no answer could be decided: the episode is then neither right nor wrong. Any other
                exception is the answer's fault, which is wrong.
        """

    def solution(self) -> str:
        """Return a scripted solver's next turn in the current state, asked once per turn; see `call`, `answer`.

        Raises:
            NotImplementedError: if the environment has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no scripted solver; define solution()")

    def follow_up(self, results: Sequence[ToolResult]) -> str:
        """Return the message that answers the tool calls of one turn. Subclasses add the task's next message."""
        return "\n".join(result.text for result in results)

    def follow_answer(self, answer: str) -> str | None:
        """Return the next question after an answer; None if the answer is the final one, to be scored."""
        return None

    def succeeded(self, episode_return: float, truncated: bool) -> bool:
        """Return True if an ended episode with this return is a success; `truncated` if a tool cut it short."""
        return episode_return >= 1.0 and not truncated

    def reminder(self) -> str:
        """Return the message that answers a turn with neither a call nor an answer."""
        return f"{'Call a tool, or give' if self._tools else 'Give'} the final answer as {self._shown('...')}."

    def numbers(self) -> dict[str, float]:
        """Return the episode's own figures at its end, such as the accuracy of single steps."""
        return {}

    def call(self, name: str, **arguments: Any) -> str:
        """Return the text of a tool call in the episode's protocol."""
        return self.protocol.format_call(name, arguments, self._tools)

    def answer(self, text: str) -> str:
        """Return the text of an answer in the episode's form."""
        return write_answer(text, self._form, self.protocol)

    @property
    def protocol(self) -> TurnProtocol:
        """Return the syntax of tool calls and answers in this episode."""
        return self.options.turn_protocol

    @property
    def tool_schemas(self) -> list[dict[str, Any]]:
        """Return the tools as OpenAI function schemas for the chat template; empty if the protocol describes them."""
        return [tool.schema for tool in self._tools] if self.protocol.template_shows_tools else []

    def limit_tool_calls(self, most: float) -> None:
        """Run at most so many tool calls in an episode: a turn that asks for more runs those that fit, and ends it."""
        self._most_calls = most

    def step_budget_s(self) -> float:
        """Return the seconds that one step may take, without waits; preflights compare their deadlines with it.

        It is the time of one turn's programs, hidden tests included, and the time beyond it for a program that holds
        its supervisor up, or for code that cannot be stopped. Infinite without a limit on tool time. It leaves out
        waits, which stop the step's clock too: for a place in a sandbox, for a supervisor to start, for an answer over
        HTTP, and for a worker that scores.
        """
        return self.tool_time.turn_limit_s + OVERRUN_S

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a new task.

        Args:
            seed: seed of `self.np_random`; None goes on with the present generator.
            options: overrides of the options for this episode.

        Returns:
            The first user message and `{"task_id": str, "horizon": int}`.

        Raises:
            ValueError: if an option is unknown, its value is not allowed, or the split has no task.
        """
        super().reset(seed=seed)
        self.options = self._with_options(self._defaults, options) if options else self._defaults
        with self.tool_time.reset():
            first_message = self._draw()
        prompt = self.system_prompt.replace("{answer}", self._shown(self.answer_form))
        told = self.protocol.instructions(self._tools).replace(self.protocol.format_answer("..."), self._shown("..."))
        self.system_prompt = "\n".join(filter(None, (prompt, self.options.prompt_note, told)))
        self._running, self._rewards, self._calls_left = True, [], self._most_calls
        return first_message, {"task_id": self.task_id, "horizon": self.options.horizon}

    def step(self, action: str) -> Step:
        """Answer one assistant turn.

        Args:
            action: the turn's text without the end-of-turn token.

        Returns:
            observation, reward, terminated, truncated and info: "role" of the observation ("tool" or "user"),
            "num_tool_calls" executed, "malformed" (a call that could not be run), "tool_time_s" if it is worth
            reporting; at the end "success", "numbers" and, if that ended it, "stop_reason" ("max_tool_time" or
            "max_tool_calls", truncated) or "scorer_error" (what the environment raised on the text, terminated). An
            error of `numbers` stands in "numbers_error", beside the verdict.

        Raises:
            TypeError: if the action is not text.
            ResetNeeded: if the episode has not begun or is over.
            InfrastructureError: if a sandbox or the verifier failed; the episode is over, without a verdict.
        """
        if not isinstance(action, str):
            raise TypeError(f"action is {type(action).__name__}: expected str, the text of one assistant turn")
        if not self._running:
            raise ResetNeeded("the episode has not begun or is over; call reset() first")
        with self.tool_time.turn():
            try:
                step = self._take_turn(self._read(action))
            except ScorerFailed as failure:
                step = "", 0.0, True, False, {**_info("user"), **NOTHING, "scorer_error": str(failure)}
            if self.tool_time.is_used_up():
                step = _cut((step[0] or f"Error: {TIME_LIMIT}", 0.0, *step[2:]), "max_tool_time")
            used_s = self.tool_time.turn_used_s()
        _, _, terminated, truncated, info = step
        # never for a turn that runs nothing, since a checker may compare the texts of two instances
        if used_s >= LEAST_S and (info["num_tool_calls"] or terminated or truncated):
            info["tool_time_s"] = round(used_s, 3)
        self._running = self._running and not (terminated or truncated)
        return step

    def _read(self, action: str) -> ParsedTurn:
        try:
            turn = self.protocol.parse(action, self._tools)
            if self._form != BOX and not turn.calls and turn.malformed is None:
                turn = dataclasses.replace(turn, answer=read_answer(action, self._form))
        except Exception as error:
            return ParsedTurn(malformed=f"the turn cannot be read: {describe(error)}")
        if len(turn.calls) > MAX_CALLS:
            return ParsedTurn(malformed=f"{len(turn.calls)} tool calls in one turn; at most {MAX_CALLS} are allowed")
        return turn

    def _take_turn(self, turn: ParsedTurn) -> Step:
        if turn.malformed is not None:
            return self._go_on(f"Error: {turn.malformed}", "tool", malformed=True)
        if turn.calls:
            ran = run_turn(self._tools, turn.calls, self, self.tool_time.is_used_up, self._calls_left)
            self._calls_left -= ran.num_executed
            answered = judged(self.follow_up, text, ran.results), "tool", ran.num_executed, ran.is_malformed
            if ran.end is not None:
                return self._end(ran.reward, not ran.end.terminated, *answered)
            step = self._go_on(*answered, ran.reward)
            return _cut(step, "max_tool_calls") if ran.is_over_limit else step
        if turn.answer is None:
            return self._go_on(judged(self.reminder, text), "user")
        question = judged(self.follow_answer, text_or_none, turn.answer)
        if question is not None:
            return self._go_on(question, "user")
        self._running = False
        return self._end(judged(self.score, finite, turn.answer))

    @property
    def _form(self) -> str:
        return getattr(self.options, "answer_form", BOX)

    def _shown(self, text: str) -> str:
        return show_form(text, self._form, self.protocol)

    def _go_on(
        self, observation: str, role: str, num_tool_calls: int = 0, malformed: bool = False, reward: float = 0.0
    ) -> Step:
        self._rewards.append(reward)
        shown = cut_middle(as_unicode(observation), self.options.max_observation_chars)
        return shown, reward, False, False, _info(role, num_tool_calls, malformed)

    def _end(self, reward: float, truncated: bool = False, observation: str = "", *told: Any) -> Step:
        shown, _, _, _, info = self._go_on(observation, *(told or ("user", 0, False)), reward)  # type: ignore[call-arg]
        info |= {"success": judged(self.succeeded, bool, math.fsum(self._rewards), truncated), "numbers": {}}
        try:
            info["numbers"] = judged(self.numbers, numbers)
        except ScorerFailed as failure:  # the verdict stands: only the figures beside it are lost
            info["numbers_error"] = str(failure)
        return shown, reward, not truncated, truncated, info

    def _draw(self) -> str:
        """Draw tasks until one belongs to the split; return its first message."""
        for _ in range(MAX_DRAWS):
            self.system_prompt, self.expected_answer = type(self).system_prompt, type(self).expected_answer
            self.task_key = self.task_split = ""
            first_message = self.make_task()
            key = self.task_key or first_message
            if self.one_task or self.options.split in (self.task_split or split_of(key), "all"):
                self.task_id = digest(key)[:16]
                return first_message
        refuse(
            "split",
            self.options.split,
            "a split that has tasks",
            "draw from more tasks, or, where there is only one, set one_task=true: its results are then not held out",
            because=f"to which none of {MAX_DRAWS} drawn tasks belongs",
        )

    def _with_options(self, base: Any, changes: dict[str, Any]) -> Any:
        names = [field.name for field in dataclasses.fields(self.options_class)]
        for name in changes:
            check_choice(f"{type(self).__name__} option", name, names)
        options = dataclasses.replace(base, **changes)
        options.turn_protocol.check_tools(self._tools)
        return options


def _info(role: str, num_tool_calls: int = 0, malformed: bool = False) -> dict[str, Any]:
    return {"role": role, "num_tool_calls": num_tool_calls, "malformed": malformed}


def _cut(step: Step, reason: str) -> Step:
    """Turn a step's outcome into the end of an episode by a limit."""
    return step[0], step[1], False, True, {**step[-1], **NOTHING, "stop_reason": reason}
