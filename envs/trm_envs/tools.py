"""Tools: typed functions, their JSON schemas, and checked calls.

A tool is a plain function with type hints and a docstring: the first line describes it, the lines under `Args:` its
parameters. Supported types: str, int, float, bool, list[T], dict, Literal[...], and `T | None`.
"""

import difflib
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, Union

from trm_envs.errors import ScorerFailed, is_not_the_texts, message_of
from trm_envs.turn import ToolCall

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
_ARG_LINE = re.compile(r"\s+(\w+):\s*(.+)")


class ToolError(Exception):
    """A tool reports a fault to the model; the message becomes the observation."""


@dataclass(frozen=True)
class ToolResult:
    """The result of one tool call. A tool may return one itself, to pay a reward or to end the episode."""

    text: str
    """The tool's output, or its fault."""
    ok: bool = True
    """True if the tool returned."""
    executed: bool = True
    """True if the tool ran; False if its name or arguments do not fit."""
    reward: float = 0.0
    """Reward of the call; an episode's return is the sum of these and of the answer's score."""
    terminated: bool = False
    """True if the call ended the task."""
    truncated: bool = False
    """True if the call used up what the task allows, such as its moves."""

    @property
    def is_end(self) -> bool:
        """Return True if the episode is over."""
        return self.terminated or self.truncated


TIME_LIMIT = "time limit exceeded"
NOT_RUN = ToolResult(f"Error: {TIME_LIMIT}", ok=False, executed=False)
TOO_LATE = ToolResult("Error: the episode is over", ok=False, executed=False)
TOO_MANY = ToolResult("Error: no tool calls are left", ok=False, executed=False)


@dataclass(frozen=True)
class TurnResults:
    """The results of the tool calls of one turn."""

    results: Sequence[ToolResult]
    """Results in the order of the calls."""

    @property
    def num_executed(self) -> int:
        """Return the number of calls that ran."""
        return sum(result.executed for result in self.results)

    @property
    def is_malformed(self) -> bool:
        """Return True if a call could not be run for its name or arguments."""
        others = (NOT_RUN, TOO_LATE, TOO_MANY)
        return any(not result.executed and result not in others for result in self.results)

    @property
    def reward(self) -> float:
        """Return the sum of the rewards."""
        return math.fsum(result.reward for result in self.results)

    @property
    def end(self) -> ToolResult | None:
        """Return the result that ended the episode; None if none did."""
        return next((result for result in self.results if result.is_end), None)

    @property
    def is_over_limit(self) -> bool:
        """Return True if a call was left out since no more were allowed."""
        return TOO_MANY in self.results


class Tool:
    """A function that the model may call.

    Args:
        function: a function with type hints for all parameters; its result is shown with `str`.
        is_method: True if its first parameter is the environment that it belongs to, not an argument of the model's.

    Raises:
        ValueError: if a parameter has no type hint or an unsupported one.
    """

    def __init__(self, function: Callable[..., Any], is_method: bool = False) -> None:
        self.function = function
        self.is_method = is_method
        self.name = function.__name__
        hints = typing.get_type_hints(function)
        docs = inspect.getdoc(function) or ""
        arg_lines = [match for line in docs.splitlines() if (match := _ARG_LINE.fullmatch(line))]
        described = {match[1]: match[2] for match in arg_lines}
        properties: dict[str, dict[str, Any]] = {}
        required: list[str] = []
        for name, parameter in list(inspect.signature(function).parameters.items())[is_method:]:
            if name not in hints:
                raise ValueError(f"tool {self.name}: parameter {name} has no type hint; add one, such as str")
            properties[name] = _schema_of(hints[name], f"tool {self.name}: parameter {name}")
            if name in described:
                properties[name]["description"] = described[name]
            if parameter.default is inspect.Parameter.empty:
                required.append(name)
        self.parameters: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
        self.description = docs.splitlines()[0] if docs else ""

    @property
    def schema(self) -> dict[str, Any]:
        """Return the tool as an OpenAI function schema (a fresh dict)."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    def check(self, arguments: dict[str, Any]) -> str | None:
        """Return the fault of the arguments, or None."""
        properties = self.parameters["properties"]
        for name in arguments:
            if name not in properties:
                return f'unknown argument "{name}"; {self.name} takes {", ".join(properties) or "no arguments"}'
        for name in self.parameters["required"]:
            if name not in arguments:
                return f'{self.name} needs the argument "{name}"'
        for name, value in arguments.items():
            if not _fits(value, properties[name]):
                return f'argument "{name}" must be {_describe(properties[name])}'
        return None


def tool(method: FunctionT) -> FunctionT:
    """Mark a method of an environment as a tool that the model may call."""
    method.is_tool = True  # type: ignore[attr-defined]
    return method


def tools_of(kind: type) -> tuple[Tool, ...]:
    """Return the tools of a kind of environment: those it names in `tools`, then its methods marked with `@tool`.

    The methods of base classes come first, in the order of the source. They are not bound to an environment, which
    would then hold itself alive until the garbage collector comes.
    """
    return _look_up(kind)


@functools.cache
def _look_up(kind: type) -> tuple[Tool, ...]:
    named = [each if isinstance(each, Tool) else _made(each) for each in kind.tools]  # type: ignore[attr-defined]
    marked = []
    for name in dict.fromkeys(name for base in reversed(kind.__mro__) for name in vars(base)):
        method: Any = getattr(kind, name, None)
        if getattr(method, "is_tool", False):
            marked.append(_made(method, inspect.isfunction(inspect.getattr_static(kind, name))))
    return (*named, *marked)


@functools.cache
def _made(function: Callable[..., Any], is_method: bool = False) -> Tool:
    return Tool(function, is_method)


def run_tool_call(tools: Sequence[Tool], call: ToolCall, owner: object = None) -> ToolResult:
    """Run one call. An unknown tool, bad arguments and a raising tool give results with the fault.

    Args:
        owner: the environment that tools which are methods belong to.

    Raises:
        InfrastructureError: if the tool raises it, since the failure is not the model's doing.
        ScorerFailed: if the tool returns a `ToolResult` with a forbidden value, or raises this itself.
    """
    by_name = {tool.name: tool for tool in tools}
    tool = by_name.get(call.name)
    if tool is None:
        close = difflib.get_close_matches(call.name, by_name, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f"the tools are: {', '.join(by_name) or 'none'}"
        return ToolResult(f'Error: no tool "{call.name[:64]}"; {hint}', ok=False, executed=False)
    problem = tool.check(call.arguments)
    if problem is not None:
        return ToolResult(f"Error: {problem}", ok=False, executed=False)
    try:
        output = tool.function(*[owner] * tool.is_method, **call.arguments)
        return _checked(tool, output) if isinstance(output, ToolResult) else ToolResult(str(output))
    except BaseException as error:
        # SystemExit too: a tool's failure on the model's arguments ends neither the episode nor the process
        if is_not_the_texts(error) or isinstance(error, ScorerFailed):
            raise
        kind = "" if isinstance(error, ToolError) else f"{type(error).__name__}: "
        return ToolResult(f"Error: {kind}{message_of(error)}", ok=False, executed=True)


def run_turn(
    tools: Sequence[Tool], calls: Sequence[ToolCall], owner: object, is_time_up: Callable[[], bool], most: float
) -> TurnResults:
    """Run the calls of a turn in order, up to one that ends the episode, finds the time used up or is one too many.

    Args:
        tools: of the environment.
        calls: of the turn.
        owner: the environment.
        is_time_up: tells whether the time for programs is used up.
        most: number of calls that may run.

    Raises:
        InfrastructureError, ScorerFailed: as `run_tool_call`.
    """
    results: list[ToolResult] = []
    for call in calls:
        if any(result.is_end for result in results):
            results.append(TOO_LATE)
        elif is_time_up():
            results.append(NOT_RUN)
        elif sum(result.executed for result in results) >= most:
            results.append(TOO_MANY)
        else:
            result = run_tool_call(tools, call, owner)
            late = replace(result, text=f"{result.text}\nError: {TIME_LIMIT}", ok=False)
            results.append(late if is_time_up() else result)
    return TurnResults(results)


def _checked(tool: Tool, result: ToolResult) -> ToolResult:
    """Return a tool's own result as one of a call that ran.

    Raises:
        ScorerFailed: if its text is not text, its reward not a finite number, or its end not True or False.
    """
    kinds: dict[str, Any] = {"text": str, "reward": (int, float), "terminated": bool, "truncated": bool}
    for name, kind in kinds.items():
        value = getattr(result, name)
        if not isinstance(value, kind) or (name == "reward" and not math.isfinite(value)):
            raise ScorerFailed(f"tool {tool.name} returned a ToolResult with {name}={value!r:.80}")
    return replace(result, executed=True, reward=float(result.reward))


def _schema_of(hint: Any, where: str) -> dict[str, Any]:
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal and all(isinstance(choice, str) for choice in inner):
        return {"type": "string", "enum": list(inner)}
    if origin in (Union, types.UnionType) and len(inner) == 2 and type(None) in inner:
        value = _schema_of(next(part for part in inner if part is not type(None)), where)
        return {"anyOf": [value, {"type": "null"}]}
    if hint is list or origin is list:
        return {"type": "array", **({"items": _schema_of(inner[0], where)} if inner else {})}
    if hint is dict or origin is dict:
        return {"type": "object"}
    raise ValueError(f"{where}: {hint} is not supported; use str, int, float, bool, list, dict, Literal or T | None")


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    if "anyOf" in schema:
        return any(_fits(value, choice) for choice in schema["anyOf"])
    kind = schema["type"]
    if kind == "array":
        items = schema.get("items")
        return isinstance(value, list) and (items is None or all(_fits(item, items) for item in value))
    if kind in ("integer", "number"):
        allowed = (int,) if kind == "integer" else (int, float)
        return isinstance(value, allowed) and not isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str) and value in schema.get("enum", [value])
    return isinstance(value, {"boolean": bool, "object": dict, "null": type(None)}[kind])


def _describe(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_describe(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(f'"{choice}"' for choice in schema["enum"])
    if schema["type"] == "array" and "items" in schema:
        return f"a list in which each item is {_describe(schema['items'])}"
    names = {"string": "a string", "integer": "an integer", "number": "a number", "boolean": "true or false"}
    return names.get(schema["type"], {"array": "a list", "object": "an object", "null": "null"}.get(schema["type"], ""))
