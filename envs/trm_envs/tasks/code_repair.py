r"""`trm/CodeRepair-v0`: fix the bugs of a small Python project.

The project is generated; see `generated_projects`. `horizon` is the number of bugs, each in a function of its own.
The files live in the environment: the tools list, read and edit them, and send them to the sandbox to run the tests.

Any final answer submits the files. The reward is 1 if every function, also those without a bug, returns the right
values for arguments that the test files do not show, else 0. The right values never enter the sandbox, and neither the
test files nor their output have a say.
"""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from trm_envs.base import ToolEnv
from trm_envs.metered import Metered
from trm_envs.python_tool import SandboxOptions
from trm_envs.sandbox import Limits, Status
from trm_envs.scoring.programs import ENDINGS, Case, hide_addresses, last_line, raise_if_broken, run_cases
from trm_envs.tasks.generated_projects import Plan, Project, build_project, draw_plan
from trm_envs.tasks.project_drivers import ANSWERS, SUITE
from trm_envs.tools import ToolError, tool

MAX_FILE_CHARS = 100_000
MAX_HINT_CHARS = 200
CLOSE_FRAC = 0.4
BUGS_A_TIMEOUT = 100


@dataclass(frozen=True)
class CodeRepairOptions(SandboxOptions):
    """Options of CodeRepair. `tool_timeout_s` holds for each 100 bugs or part of them.

    Raises:
        ValueError: if a value is not allowed.
    """


class CodeRepair(ToolEnv[CodeRepairOptions]):
    """The environment; see the module's docstring.

    Args:
        **options: defaults for the fields of `CodeRepairOptions`.
    """

    options_class = CodeRepairOptions
    system_prompt = (
        "Mend the Python project with the tools, so that each function does what its docstring says. When the tests "
        "pass, give the final answer as {answer}."
    )
    answer_form = "done"

    @tool
    def list_files(self) -> str:
        """List the project's files."""
        return "\n".join(sorted(self._files))

    @tool
    def read_file(self, path: str) -> str:
        """Show a file.

        Args:
            path: the file's name
        """
        self._seen.add(path)
        return self._file(path)

    @tool
    def edit_file(self, path: str, old: str, new: str) -> str:
        """Replace a text that stands exactly once in a file.

        Args:
            path: the file's name
            old: the text to replace, as it stands in the file
            new: the text to put there
        """
        self._edited[path] = _replace(path, self._file(path), old, new)
        self._is_tested = False
        return f"Edited {path}."

    @tool
    def run_tests(self) -> str:
        """Run the project's tests and show which fail."""
        tests = sorted(path[: -len(".py")] for path in self._files if path.startswith("test_"))
        sandbox = Metered(self.options.open_sandbox, self.tool_time)
        result = sandbox.run(SUITE, stdin="\n".join(tests), files=self._files, limits=self._limits())
        raise_if_broken(result)
        self._is_tested = True
        if result.status is Status.OK and result.stdout.strip():
            return hide_addresses(result.stdout.strip())
        reason = ENDINGS.get(result.status.value) or last_line(result.stderr) or "the code stopped the run"
        return f"The tests did not come to their end: {reason}."

    def make_task(self) -> str:
        """Draw a project; return the first message."""
        self._plan: Plan = draw_plan(self.np_random, self.options.horizon)
        self._built: Project | None = None
        self._edited: dict[str, str] = {}
        self._seen: set[str] = set()
        self._is_tested = False
        self._mended_frac = 0.0
        self.task_key = repr(self._plan.modules)
        count = self.options.horizon
        subject = "One function of this project has a bug" if count == 1 else f"{count} functions have a bug each"
        return f"{subject}. Mend the project."

    def score(self, answer: str) -> float:
        """Return 1.0 if all hidden checks pass, whatever the answer says."""
        if not self._edited:
            return 0.0
        checks = self._project.hidden
        calls = "\n".join(json.dumps([check.module, check.function, check.args]) for check in checks)
        case = Case(calls, "\n".join(check.expected for check in checks))
        modules = {path: text for path, text in self._files.items() if not path.startswith("test_")}
        sandbox = Metered(self.options.open_sandbox, self.tool_time)
        (outcome,) = run_cases(sandbox, ANSWERS, [case], files=modules, limits=self._limits())
        # exactly, white space too
        answers = outcome.stdout.removesuffix("\n").split("\n")
        failed = {
            check.function
            for number, check in enumerate(checks)
            if number >= len(answers) or answers[number] != check.expected
        }
        bugs = self._project.bugs
        self._mended_frac = sum(bug.function not in failed for bug in bugs) / len(bugs)
        return float(outcome.passed and not failed)

    def numbers(self) -> dict[str, float]:
        """Return the fraction of the bugs that are fixed."""
        return {"bugs_mended_frac": self._mended_frac}

    def solution(self) -> str:
        """Return the next step: read a file with a bug, fix its bugs one by one; last, run the tests and answer."""
        for path, right in self._project.right_files.items():
            text = self._file(path)
            if text != right and not path.startswith("test_"):
                return self._mend(path, text, right) if path in self._seen else self.call("read_file", path=path)
        return self.answer("done") if self._is_tested else self.call("run_tests")

    def _mend(self, path: str, text: str, right: str) -> str:
        for bug in self._project.bugs:
            edit = bug.edit(text) if bug.path == path else None
            if edit is not None:
                return self.call("edit_file", path=path, old=edit[0], new=edit[1])
        return self.call("edit_file", path=path, old=text, new=right)

    @property
    def _project(self) -> Project:
        # not in make_task, since most draws of a rare split are thrown away
        if self._built is None:
            self._built = build_project(self._plan)
        return self._built

    @property
    def _files(self) -> dict[str, str]:
        return {**self._project.files, **self._edited}

    def _file(self, path: str) -> str:
        names = self._project.files
        if path in names:
            return self._edited.get(path, names[path])
        close = difflib.get_close_matches(path, names, n=1)
        hint = f'did you mean "{close[0]}"?' if close else "list_files() names them all"
        raise ToolError(f'no file "{path[:100]}"; {hint}')

    def _limits(self) -> Limits:
        parts = -(-self.options.horizon // BUGS_A_TIMEOUT)
        return self.options.limits(self.options.tool_timeout_s * parts)


def _closest(wanted: str, lines: Sequence[str]) -> str | None:
    """Return the line that has most triples of characters in common with a text; None if all have few.

    Takes time by the length of the lines, whatever they hold; difflib's measure takes up to its cube.
    """

    def triples(text: str) -> set[str]:
        return {text[i : i + 3] for i in range(max(len(text) - 2, 1))}

    own, closest, most = triples(wanted), None, CLOSE_FRAC
    for line in lines:
        cut = line.strip()[:MAX_HINT_CHARS]
        others = triples(cut)
        if (share := 2 * len(own & others) / (len(own) + len(others))) > most:
            closest, most = cut, share
    return closest


def _replace(path: str, text: str, old: str, new: str) -> str:
    """Return the text with its only `old` replaced.

    Raises:
        ToolError: if `old` does not stand there exactly once, or the result cannot be a file.
    """
    count = text.count(old) if old or text else 1
    if count == 0:
        near = _closest(old.strip().split("\n")[0].strip()[:MAX_HINT_CHARS], text.split("\n"))
        hint = "read the file and copy it exactly" if near is None else f"the closest line is: {near}"
        raise ToolError(f"the old text is not in {path}; {hint}")
    if count > 1:
        raise ToolError(f"the old text stands {count} times in {path}; add lines around it, so that it stands once")
    if len(text) - len(old) + len(new) > MAX_FILE_CHARS:
        raise ToolError(f"{path} would have more than {MAX_FILE_CHARS} characters")
    try:
        new.encode()
    except UnicodeEncodeError as error:
        raise ToolError(f"character {error.start} of the new text is half a surrogate pair") from error
    return text.replace(old, new, 1)
