r"""Run a program against tests, each an input with its expected output.

Only inputs enter the sandbox. The outputs are compared here, so that a program cannot forge a verdict: whatever it
exits with, patches, overrides or reads from its disk, it passes by printing the expected output or not at all.

    harness = "for line in __import__('sys').stdin: print(f(int(line)))"
    outcomes = run_cases(sandbox, "def f(x): return x + 1", [Case("3\n4\n", "4\n5\n")], harness=harness)
"""

import dataclasses
import enum
import re
from collections.abc import Mapping, Sequence

from trm_envs.errors import VerifierError
from trm_envs.sandbox import Limits, Result, Runner, Status
from trm_envs.scoring.outputs import same_output

MAX_ERROR_CHARS = 200
_MIN_WALL_S = 0.01
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


class CaseVerdict(str, enum.Enum):
    """The result of a program on one test."""

    PASSED = "passed"
    """The program ended by itself with return code 0 and printed the expected output."""
    WRONG = "wrong"
    """The program ended by itself with return code 0 and printed another output."""
    ERROR = "error"
    """The program ended with another return code, or its text cannot be run."""
    TIMEOUT = "timeout"
    """The program was stopped at the time limit: its own, or the time left for all tests together."""
    MEMORY = "memory"
    """The program was stopped at the memory limit."""
    OUTPUT_LIMIT = "output_limit"
    """The program wrote more than the limit allows."""
    NOT_RUN = "not_run"
    """The program was not run: an earlier test failed or used up the time."""


ENDINGS: dict[str, str] = {
    CaseVerdict.TIMEOUT: "the code took too long",
    CaseVerdict.MEMORY: "the code used too much memory",
    CaseVerdict.OUTPUT_LIMIT: "the code printed too much",
}
"""The messages to a model about a run that was stopped."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One test of a program."""

    stdin: str
    """The program's standard input."""
    expected: str
    """The expected output; see `same_output`."""
    tolerance: float | None = None
    """The largest error of a number in the output; None compares exactly."""


@dataclasses.dataclass(frozen=True)
class CaseOutcome:
    """The outcome of one test."""

    verdict: CaseVerdict
    """The result of the program."""
    stdout: str = ""
    """The program's output."""
    error: str = ""
    """The last line of its stderr, without memory addresses; for people and models."""

    @property
    def passed(self) -> bool:
        """Return True if the output is the expected one."""
        return self.verdict is CaseVerdict.PASSED


def run_cases(
    sandbox: Runner,
    program: str,
    cases: Sequence[Case],
    *,
    harness: str = "",
    files: Mapping[str, str | bytes] | None = None,
    limits: Limits | None = None,
    stop_at_first_failure: bool = False,
    deadline_s: float | None = None,
) -> list[CaseOutcome]:
    """Run a Python program once for each test, each time in a fresh process.

    Args:
        sandbox: the sandbox that runs it.
        program: the program's text.
        cases: the tests.
        harness: code to append to the program.
        files: files beside the program.
        limits: of each run; None takes the defaults of `Limits`.
        stop_at_first_failure: True to skip the tests after a failed one.
        deadline_s: seconds for all runs together, waits for a free place not counted; None means no limit.

    Returns:
        One outcome for each test.

    Raises:
        VerifierError: if the sandbox failed, not the program.
        ValueError: if the deadline is not above 0.
    """
    if deadline_s is not None and not deadline_s > 0:
        raise ValueError(f"deadline_s = {deadline_s!r}: expected seconds above 0, or None for no limit; e.g. 60")
    code = f"{program}\n{harness}" if harness else program
    if not _is_text(code):
        return [CaseOutcome(CaseVerdict.ERROR, error="the program is not Unicode text") for _ in cases]
    limits = limits or Limits()
    outcomes: list[CaseOutcome] = []
    left_s = deadline_s
    for case in cases:
        if left_s is not None and left_s < _MIN_WALL_S:
            break
        wall_s = limits.wall_s if left_s is None else min(limits.wall_s, left_s)
        run_limits = dataclasses.replace(limits, wall_s=wall_s)
        result = sandbox.run(code, stdin=case.stdin, files=files, limits=run_limits)
        outcomes.append(judge(result, case))
        if left_s is not None:
            left_s -= result.duration_s
        if stop_at_first_failure and not outcomes[-1].passed:
            break
    return outcomes + [CaseOutcome(CaseVerdict.NOT_RUN)] * (len(cases) - len(outcomes))


def judge(result: Result, case: Case) -> CaseOutcome:
    """Return the outcome of one run.

    Raises:
        VerifierError: if the sandbox failed.
    """
    raise_if_broken(result)
    if result.status is not Status.OK:
        return CaseOutcome(CaseVerdict(result.status.value), result.stdout, last_line(result.stderr))
    if result.stdout_truncated:
        return CaseOutcome(CaseVerdict.OUTPUT_LIMIT, result.stdout)
    is_same = same_output(result.stdout, case.expected, case.tolerance)
    verdict = CaseVerdict.PASSED if is_same else CaseVerdict.WRONG
    return CaseOutcome(verdict, result.stdout)


def raise_if_broken(result: Result) -> None:
    """Raise a VerifierError if the sandbox failed, not the program."""
    if result.status is Status.SANDBOX_ERROR:
        raise VerifierError(f"the sandbox failed: {result.message}; see docs/sandbox.md")


def last_line(stderr: str) -> str:
    """Return the last line of an error's text, shortened and identical from run to run."""
    line = hide_addresses(stderr.strip().split("\n")[-1].strip())
    return line if len(line) <= MAX_ERROR_CHARS else f"{line[:MAX_ERROR_CHARS]}..."


def hide_addresses(text: str) -> str:
    """Return the text without memory addresses, which differ from run to run."""
    return _ADDRESS.sub("at 0x...", text)


def _is_text(code: str) -> bool:
    try:
        code.encode()
    except UnicodeEncodeError:
        return False
    return True
