"""Programs against tests: what passes, what fails in which way, and that nothing can be forged."""

import re
from collections.abc import Iterator

import pytest

from tests.envs.sandbox_support import MIB, needs_bubblewrap
from trm_envs import VerifierError
from trm_envs.sandbox import Limits, LocalSandbox, Result, Runner, Status
from trm_envs.scoring import Case, CaseOutcome, CaseVerdict, run_cases

LIMITS = Limits(wall_s=10, cpu_s=5, memory_bytes=256 * MIB, output_bytes=MIB)
SQUARES = [Case("3\n", "9\n"), Case("12\n", "144\n")]
HARNESS = "print(f(int(input())))"
RIGHT = "def f(x): return x * x"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Runner]:
    with LocalSandbox() as made:
        yield made


class Fake:
    """A sandbox that returns what it is told and keeps what it gets."""

    def __init__(self, *results: Result) -> None:
        self.results = list(results)
        self.calls: list[tuple[str, str, Limits]] = []

    def run(self, code: str, *, stdin: str, files: object, limits: Limits) -> Result:
        self.calls.append((code, stdin, limits))
        return self.results.pop(0)


def verdicts(outcomes: list[CaseOutcome]) -> list[str]:
    return [outcome.verdict.value for outcome in outcomes]


@needs_bubblewrap
def test_a_right_program_passes_with_and_without_a_harness(sandbox: Runner) -> None:
    assert verdicts(run_cases(sandbox, RIGHT, SQUARES, harness=HARNESS, limits=LIMITS)) == ["passed", "passed"]
    program = "x = int(input()); print(f'{x * x}   ')"
    assert verdicts(run_cases(sandbox, program, SQUARES, limits=LIMITS)) == ["passed", "passed"]


@pytest.mark.slow
@needs_bubblewrap
@pytest.mark.parametrize(
    ("program", "verdict", "error"),
    [
        ("def f(x): return x", "wrong", ""),
        ("def f(x): return 1 / 0", "error", "ZeroDivisionError: division by zero"),
        ("def f(x) return x", "error", "SyntaxError: expected ':'"),
        ("def f(x): raise ValueError(object())", "error", "ValueError: <object object at 0x...>"),
        ("import sys; sys.exit(3)", "error", ""),
        ("while True: pass", "timeout", ""),
        ("import time; time.sleep(60)", "timeout", ""),
        ("x = bytearray(10**10)", "memory", "MemoryError"),
        ("while True: print('x' * 10000)", "output_limit", ""),
        ("x = '\ud800'", "error", "the program is not Unicode text"),
        ("x = '\x00'", "error", "source code string cannot contain null bytes"),
    ],
)
def test_a_failing_program_fails_in_its_own_way(sandbox: Runner, program: str, verdict: str, error: str) -> None:
    limits = Limits(wall_s=1, cpu_s=1, memory_bytes=256 * MIB, output_bytes=MIB) if verdict == "timeout" else LIMITS
    (outcome,) = run_cases(sandbox, program, SQUARES[:1], harness=HARNESS, limits=limits)
    assert outcome.verdict.value == verdict
    assert outcome.error.endswith(error)
    assert not re.search("0x[0-9a-f]", outcome.error)


CHEATS = {
    "leaves before the tests": "import sys; sys.exit(0)",
    "leaves at once": "import os; os._exit(0)",
    "leaves from the function": "import os\ndef f(x): os._exit(0)",
    "equals everything": "class A:\n    def __eq__(self, other): return True\ndef f(x): return A()",
    "equals everything as a text": (
        "class A(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\ndef f(x): return A('1')"
    ),
    "prints words of a verdict": "import os; print('passed\\nPASSED\\nOK\\n1.0'); os._exit(0)",
    "patches print": "import builtins; builtins.print = lambda *a, **k: None\ndef f(x): return 0",
    "patches input": "import builtins; builtins.input = lambda *a: '1'\ndef f(x): return 1",
    "patches json and int": "import builtins, json; json.loads = builtins.int = lambda *a: 0\ndef f(x): return 0",
    "writes a reward": "open('reward.txt', 'w').write('1'); open('result.json', 'w').write('{\"passed\": true}')",
    "rewrites its end": "import atexit, os; atexit.register(os._exit, 0)\ndef f(x): return 0",
    "a thread leaves": "import os, threading; threading.Timer(0, os._exit, [0]).start()\ndef f(x): return 0",
    "swallows the harness": "def f(x): return 0\nprint(f(0))\nif False:\\",
    "looks into the frames": (
        "import sys\ndef f(x):\n    frame, found = sys._getframe(), []\n    while frame:\n"
        "        found += [v for v in list(frame.f_globals.values()) + list(frame.f_locals.values()) if v == '9']\n"
        "        frame = frame.f_back\n    return found[0] if found else 0"
    ),
    "looks at its files, arguments and environment": (
        "import glob, os, sys\ndef f(x):\n    text = ' '.join([*sys.argv, *os.environ.values()])\n"
        "    for path in glob.glob('**', recursive=True) + glob.glob('/tmp/**', recursive=True):\n"
        "        text += open(path).read() if os.path.isfile(path) else ''\n"
        "    return 144 if '144' in text else 0"
    ),
}


@needs_bubblewrap
@pytest.mark.parametrize("cheat", CHEATS.values(), ids=CHEATS)
def test_a_cheating_program_passes_no_test(sandbox: Runner, cheat: str) -> None:
    outcomes = run_cases(sandbox, cheat, SQUARES, harness=HARNESS, limits=LIMITS)
    assert not any(outcome.passed for outcome in outcomes), outcomes
    assert CaseVerdict.NOT_RUN not in {outcome.verdict for outcome in outcomes}


@needs_bubblewrap
def test_a_right_output_counts_only_if_the_program_ends_well(sandbox: Runner) -> None:
    outcomes = run_cases(sandbox, f"{RIGHT}\n{HARNESS}\nraise SystemExit(1)", SQUARES[:1], limits=LIMITS)
    assert verdicts(outcomes) == ["error"]


def test_what_is_expected_never_enters_the_sandbox() -> None:
    fake = Fake(Result(Status.OK, "81\n"))
    assert run_cases(fake, "p", [Case("9", "81")], harness="h")[0].passed
    ((code, stdin, _),) = fake.calls
    assert (code, stdin) == ("p\nh", "9")


def test_a_failing_sandbox_is_no_wrong_answer() -> None:
    with pytest.raises(VerifierError, match="the sandbox failed: no fork"):
        run_cases(Fake(Result(Status.SANDBOX_ERROR, message="no fork")), "p", SQUARES)


def test_a_cut_output_is_no_right_one() -> None:
    outcomes = run_cases(Fake(Result(Status.OK, "9\n", stdout_truncated=True)), "p", SQUARES[:1])
    assert verdicts(outcomes) == ["output_limit"]


def test_stopping_at_the_first_failure_leaves_out_the_rest() -> None:
    fake = Fake(Result(Status.OK, "9"), Result(Status.OK, "5"))
    outcomes = run_cases(fake, "p", [*SQUARES, *SQUARES], stop_at_first_failure=True)
    assert verdicts(outcomes) == ["passed", "wrong", "not_run", "not_run"]


def test_the_deadline_is_what_the_runs_take_together() -> None:
    # 3 s each of 7 s: the third run may take 1 s, the fourth is left out
    fake = Fake(*[Result(Status.OK, "9", duration_s=3.0)] * 3)
    outcomes = run_cases(fake, "p", [SQUARES[0]] * 4, limits=Limits(wall_s=5), deadline_s=7)
    assert [limits.wall_s for _, _, limits in fake.calls] == [5, 4, 1]
    assert verdicts(outcomes) == ["passed", "passed", "passed", "not_run"]
    with pytest.raises(ValueError, match="deadline_s = 0"):
        run_cases(fake, "p", SQUARES, deadline_s=0)
