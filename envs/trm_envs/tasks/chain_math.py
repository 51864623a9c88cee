r"""`trm/ChainMath-v0`: a chain of arithmetic steps, each on the last result, with a calculator.

The task reveals one step at a time (`reveal="stepwise"`): each tool result comes with the next instruction, and after
the last one the model is asked for the answer. With `reveal="upfront"` all steps stand in the first message.

The calculator computes any call. A wrong call therefore gets a wrong result and the next instruction; the
mistake shows in the final answer. A call that fails (not arithmetic, malformed) leaves the chain where it is. Several
calls in one turn count as one step, and calls after the last step count for nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trm_envs.base import ToolEnv
from trm_envs.options import EnvOptions, check_choice
from trm_envs.scoring import plain_answer
from trm_envs.tasks.calculator import evaluate
from trm_envs.tools import ToolResult, tool

REVEALS = ("stepwise", "upfront")
MAX_VALUE = 999
WORDS = {"+": "add", "-": "subtract", "*": "multiply by"}
ASK = "Now give the final answer."
COPIED = "a_wrong_number_copied"
"""The family of the mistakes that write another number than the one that the message before holds."""
VALUE, OPERAND = f"{COPIED}/not_the_last_result", f"{COPIED}/not_the_operand_asked_for"
ANSWER = f"{COPIED}/the_answer_not_the_last_result"
OPERATION, FORM = "not_the_operation_asked_for", "a_call_of_another_form"
MISTAKES = (VALUE, OPERAND, OPERATION, FORM, ANSWER)
"""The parts of a wrong call, of which the first that is wrong counts; a call of another form; the answer alone."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,30}")
_CALL = re.compile(r"(-?[0-9]+)([+*-])([0-9]+)")


@dataclass(frozen=True)
class ChainMathOptions(EnvOptions):
    """Options of ChainMath.

    Raises:
        ValueError: if a value is not allowed.
    """

    reveal: str = "stepwise"
    """"stepwise": one instruction a turn; "upfront": all of them in the first message."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("reveal", self.reveal, REVEALS)


@dataclass(frozen=True)
class Chain:
    """A chain of steps from a start value; step i works on `values[i]`, and `values[-1]` is the answer."""

    values: tuple[int, ...]
    steps: tuple[tuple[str, int], ...]

    @property
    def content(self) -> str:
        """Return everything that defines the task."""
        return f"{self.values[0]}" + "".join(f"{operation}{operand}" for operation, operand in self.steps)


class ChainMath(ToolEnv[ChainMathOptions]):
    """The environment; see the module's docstring.

    Args:
        **options: defaults for `horizon` (4), `split` ("train") and `reveal` ("stepwise").
    """

    options_class = ChainMathOptions
    system_prompt = "Follow the steps with the calculator, one call a turn. Give the final answer as {answer}."
    answer_form = "integer"

    @tool
    def calculator(self, expression: str) -> str:
        """Evaluate an expression of integers.

        Args:
            expression: such as 12*3
        """
        result = str(evaluate(expression))
        self._expression = expression
        return result

    def make_task(self) -> str:
        """Draw a chain; return the first message."""
        self._chain = draw_chain(self.np_random, self.options.horizon)
        self._num_done, self._is_last_right = 0, False
        self.task_key, self.expected_answer = self._chain.content, str(self._chain.values[-1])
        self._is_early, self._expression, self._mistake, self._mistake_turn = False, "", "", 0
        start = f"Start with {self._chain.values[0]}. "
        if self.options.reveal == "stepwise":
            return start + self._instruction()
        return start + " ".join(_say(step) for step in self._chain.steps)

    def follow_up(self, results: Sequence[ToolResult]) -> str:
        """Return the results, and the next instruction once a call has succeeded."""
        if self._num_done < self.options.horizon and any(result.ok for result in results):
            last = [result.text for result in results if result.ok][-1]
            self._is_last_right = last == str(self._chain.values[self._num_done + 1])
            if not self._is_last_right and not self._mistake:
                self._err(_mistake(self._expression, self._chain.values[self._num_done], *self._now))
            self._num_done += 1
        shown = " ".join(f"Result: {result.text}." if result.ok else f"{result.text}." for result in results)
        instruction = self._instruction()
        return f"{shown} {instruction}" if instruction else shown

    def score(self, answer: str) -> float:
        """Return 1.0 for the exact result of a chain that was asked for, else 0.0.

        Stepwise, an answer before the last result is early and earns nothing; upfront, any time will do.
        """
        self._is_early = self.options.reveal == "stepwise" and self._num_done < self.options.horizon
        text = plain_answer(answer).replace(",", "")
        if not _INTEGER.fullmatch(text) or int(text) != self._chain.values[-1]:
            if not self._mistake and self._num_done == self.options.horizon:
                self._err(ANSWER)
            return 0.0
        return 0.0 if self._is_early else 1.0

    def numbers(self) -> dict[str, float]:
        """Return how far the chain came, what the last call gave, and the first mistake.

        `steps_done_frac`: the fraction of the steps with a successful call. `answered_early`: 1 for an answer before
        the last one, else 0. `last_result_right`: 1 if the last result is the chain's value at that step, else 0.
        `first_mistake/...`: 1 for the first mistake, 0 for the other `MISTAKES`; `first_mistake_turn`: its turn, from 1
        on, absent without one.
        """
        place = {"first_mistake_turn": float(self._mistake_turn)} if self._mistake else {}
        return {
            "steps_done_frac": self._num_done / self.options.horizon,
            "answered_early": float(self._is_early),
            "last_result_right": float(self._is_last_right),
            **{f"first_mistake/{name}": float(name == self._mistake) for name in MISTAKES},
            **place,
        }

    def solution(self) -> str:
        """Return the call for the present step, or the boxed answer after the last."""
        if self._num_done == self.options.horizon:
            return self.answer(str(self._chain.values[-1]))
        operation, operand = self._now
        expression = f"{self._chain.values[self._num_done]}{operation}{operand}"
        return self.call("calculator", expression=expression)

    def _err(self, mistake: str) -> None:
        # one reward for each turn before this one
        self._mistake, self._mistake_turn = mistake, len(self._rewards) + 1

    @property
    def _now(self) -> tuple[str, int]:
        return self._chain.steps[self._num_done]

    def _instruction(self) -> str:
        if self._num_done == self.options.horizon:
            return ASK
        return _say(self._now) if self.options.reveal == "stepwise" else ""


def draw_chain(rng: np.random.Generator, horizon: int) -> Chain:
    """Draw a chain of `horizon` steps with all values from -999 to 999.

    Values of three digits drift back toward zero by large steps and are never multiplied; without that, long chains
    would get stuck at three digits, and a late step would not look like an early one.
    """
    values = [int(rng.integers(1, 100))]
    steps: list[tuple[str, int]] = []
    while len(steps) < horizon:
        value = values[-1]
        toward_zero, away = ("-", "+") if value > 0 else ("+", "-")
        is_large = abs(value) >= 100
        choices = (toward_zero, toward_zero, away) if is_large else ("+", "-", "*")
        operation = choices[int(rng.integers(3))]
        operand_range = (10, 100) if is_large and operation == toward_zero else (2, 10)
        operand = int(rng.integers(*operand_range))
        result = {"+": value + operand, "-": value - operand, "*": value * operand}[operation]
        if abs(result) <= MAX_VALUE:
            values.append(result)
            steps.append((operation, operand))
    return Chain(tuple(values), tuple(steps))


def _mistake(expression: str, value: int, operation: str, operand: int) -> str:
    """Return which part of a wrong call is wrong, the first of value, operand and operation; see `MISTAKES`."""
    call = _CALL.fullmatch(expression.replace(" ", "").replace("(", "").replace(")", ""))
    if call is None:
        return FORM
    if int(call[1]) != value:
        return VALUE
    return OPERAND if int(call[3]) != operand else OPERATION


def _say(step: tuple[str, int]) -> str:
    operation, operand = step
    return f"Now {WORDS[operation]} {operand}."
