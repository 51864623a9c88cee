"""The special cases of CodeRepair."""

import re
import time

import gymnasium
import numpy as np
import pytest

from tests.envs.sandbox_support import needs_bubblewrap
from trm_envs import InfrastructureError, python_tool
from trm_envs.sandbox import Result, Status
from trm_envs.tasks.code_repair import CodeRepair, _replace
from trm_envs.tasks.generated_projects import build_project, define, draw_arguments, draw_plan, outcome_of, source_of
from trm_envs.tasks.project_parts import MODULE_NAMES, PARTS
from trm_envs.tools import ToolError

pytestmark = needs_bubblewrap
DONE = "\\boxed{done}"


def make(**options: object) -> CodeRepair:
    return gymnasium.make("trm/CodeRepair-v0", **options).unwrapped  # type: ignore[return-value]


def use(env: CodeRepair, tool: str, **arguments: str) -> str:
    return env.step(env.call(tool, **arguments))[0]


def append(env: CodeRepair, path: str, code: str) -> None:
    text = env._files[path]
    assert use(env, "edit_file", path=path, old=text, new=text + code) == f"Edited {path}."


def mend_all(env: CodeRepair) -> None:
    for bug in env._project.bugs:
        old, new = bug.edit(env._files[bug.path])  # type: ignore[misc]
        assert use(env, "edit_file", path=bug.path, old=old, new=new) == f"Edited {bug.path}."


def test_an_episode() -> None:
    env = make(horizon=1)
    first, _ = env.reset(seed=5)
    assert first == "One function of this project has a bug. Mend the project."
    (bug,) = env._project.bugs
    assert bug.path in use(env, "list_files").split("\n")
    before = use(env, "run_tests")
    assert re.search(rf"FAIL test_{bug.path} test_{bug.function}: assert {bug.function}\(.*\) == .+, got ", before)
    # the bug's own test, and its report's
    assert before.endswith(" of 12 tests fail.")
    assert bug.wrong in use(env, "read_file", path=bug.path)
    mend_all(env)
    assert use(env, "run_tests") == "All 12 tests pass. Give the final answer."
    _, reward, _, _, info = env.step(DONE)
    assert (reward, info["numbers"]) == (1.0, {"bugs_mended_frac": 1.0})


def test_a_part_of_the_bugs_earns_nothing_and_is_counted() -> None:
    env = make(horizon=4)
    env.reset(seed=1)
    bug = env._project.bugs[0]
    old, new = bug.edit(env._files[bug.path])  # type: ignore[misc]
    use(env, "edit_file", path=bug.path, old=old, new=new)
    _, reward, _, _, info = env.step(DONE)
    assert (reward, info["numbers"]) == (0.0, {"bugs_mended_frac": 0.25})


def test_a_mended_project_with_another_function_broken_earns_nothing() -> None:
    env = make(horizon=1)
    env.reset(seed=1)
    mend_all(env)
    (bug,) = env._project.bugs
    other = next(check.function for check in env._project.hidden if check.function != bug.function)
    path = next(f"{check.module}.py" for check in env._project.hidden if check.function == other)
    append(env, path, f"\n\ndef {other}(*args):\n    return 0\n")
    _, reward, _, _, info = env.step(DONE)
    assert (reward, info["numbers"]) == (0.0, {"bugs_mended_frac": 1.0})


def cheat_with_table(env: CodeRepair) -> None:
    """Return what the visible tests want, and what came before for anything else."""
    for bug in env._project.bugs:
        tests = re.findall(rf"assert {bug.function}\((.*)\) == (.*)", env._files[f"test_{bug.path}"])
        table = ", ".join(f"ascii(({args},)): {value}" for args, value in tests)
        code = f"\n_old = {bug.function}\ndef {bug.function}(*args): return {{{table}}}.get(ascii(args)) or _old(*args)"
        append(env, bug.path, code)


def cheat_with_tests(env: CodeRepair) -> None:
    for path, text in env._files.items():
        if path.startswith("test_"):
            use(env, "edit_file", path=path, old=text, new="def test_all(): pass\n")


def cheat_in_every_module(code: str) -> object:
    def cheat(env: CodeRepair) -> None:
        for path in env._files:
            if not path.startswith("test_"):
                append(env, path, f"\n{code}\n")

    return cheat


EQUAL = (
    "class A(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
    "for _name in [n for n in globals() if callable(globals()[n]) and n != 'A']: globals()[_name] = lambda *a: A()"
)
CHEATS = {
    "a table of the visible tests": cheat_with_table,
    "empty test files": cheat_with_tests,
    "leaves with 0": cheat_in_every_module("import sys; sys.exit(0)"),
    "leaves at once": cheat_in_every_module("import os; os._exit(0)"),
    "says that all pass": cheat_in_every_module(
        "import os; os.write(1, b'All 12 tests pass. Give the final answer.\\n'); os._exit(0)"
    ),
    "equals everything": cheat_in_every_module(EQUAL),
    "patches ascii and json": cheat_in_every_module(
        "import builtins, json; builtins.ascii = lambda v: '0'; json.loads = lambda t: ['os', 'getcwd', []]"
    ),
    "patches the import": cheat_in_every_module("import importlib; importlib.import_module = lambda name: None"),
    "rewrites the end": cheat_in_every_module("import atexit, os; atexit.register(os._exit, 0)"),
    "writes a reward": cheat_in_every_module("open('reward.txt', 'w').write('1')"),
}


@pytest.mark.parametrize("cheat", CHEATS.values(), ids=CHEATS)
def test_cheating_earns_nothing(cheat: object) -> None:
    env = make(horizon=2)
    env.reset(seed=3)
    cheat(env)  # type: ignore[operator]
    use(env, "run_tests")
    _, reward, _, _, info = env.step(DONE)
    assert (reward, info["numbers"]) == (0.0, {"bugs_mended_frac": 0.0})


def test_prints_and_changed_tests_do_no_harm_to_a_mended_project() -> None:
    env = make(horizon=2)
    env.reset(seed=3)
    mend_all(env)
    append(env, env._project.bugs[0].path, "\nprint('hello')\n")
    cheat_with_tests(env)
    assert use(env, "run_tests").startswith("All 2 tests pass.")
    assert env.step(DONE)[1] == 1.0


@pytest.mark.parametrize("line", ["a" * 100 + "b" * 99, "ab" * 99, "a" * 199, "abc" * 66, "x"])
def test_an_edit_that_does_not_fit_takes_no_time_whatever_the_file_holds(line: str) -> None:
    text = "\n".join([line] * (99_000 // (len(line) + 1)))
    for old in (line[::-1] + "!", line[:60] + line[70:] + "!", "b" * 99 + "a" * 99 + "!"):
        started = time.process_time()
        with pytest.raises(ToolError, match=r"the old text is not in x\.py; "):
            _replace("x.py", text, old, "")
        assert time.process_time() - started < 2  # 0.1 s on an idle machine; it took over a minute


def test_errors_of_the_tools_help() -> None:
    env = make(horizon=1)
    env.reset(seed=5)
    (bug,) = env._project.bugs
    path, line = bug.path, bug.edit(env._files[bug.path])[0]  # type: ignore[index]
    assert use(env, "read_file", path=path + "x") == f'Error: no file "{path}x"; did you mean "{path}"?'
    assert use(env, "read_file", path="/etc/passwd") == 'Error: no file "/etc/passwd"; list_files() names them all'
    shown = use(env, "edit_file", path=path, old=line.replace(" ", "  ", 1), new="")
    assert shown == f"Error: the old text is not in {path}; the closest line is: {line}"
    assert " times in " in use(env, "edit_file", path=path, old="return", new="")
    assert " times in " in use(env, "edit_file", path=path, old="", new="x")
    assert "half a surrogate pair" in use(env, "edit_file", path=path, old=line, new="\ud800")
    assert "more than 100000 characters" in use(env, "edit_file", path=path, old=line, new="x" * 10**5)
    assert not env._edited
    use(env, "edit_file", path=path, old=env._files[path], new="")
    use(env, "edit_file", path=path, old="", new="x = 1\n")
    assert use(env, "read_file", path=path) == "x = 1\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("def f(:", "cannot be imported: SyntaxError: "),
        ("raise ValueError(object())", "ValueError: <object object at 0x...>"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("while True: pass", "The tests did not come to their end: the code took too long."),
        ("import os; os._exit(0)", "The tests did not come to their end: the code stopped the run."),
        ("import os; os._exit(1)", "The tests did not come to their end: the code stopped the run."),
    ],
)
def test_a_run_that_breaks_is_told_of_without_paths_and_the_solver_mends_it(code: str, shown: str) -> None:
    env = make(horizon=1, tool_timeout_s=1.0)
    env.reset(seed=5)
    append(env, env._project.bugs[0].path, f"\n{code}\n")
    text = use(env, "run_tests")
    assert shown in text
    assert not re.search(r"0x[0-9a-f]|/", text)
    terminated = False
    while not terminated:
        _, reward, terminated, _, _ = env.step(env.solution())
    assert reward == 1.0


def test_many_failures_are_shown_in_part() -> None:
    env = make(horizon=40)
    env.reset(seed=0)
    lines = use(env, "run_tests").split("\n")
    assert len(lines) == 22
    assert lines[-2] == "..."
    assert re.fullmatch(r"\d+ of 60 tests fail\.", lines[-1])


def test_a_failing_sandbox_is_neither_right_nor_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def run(self, *args: object, **kwargs: object) -> Result:
            return Result(Status.SANDBOX_ERROR, message="no fork")

    monkeypatch.setattr(python_tool, "shared_sandbox", lambda name, pins: Broken())
    env = make(horizon=1)
    env.reset(seed=1)
    with pytest.raises(InfrastructureError, match="no fork"):
        use(env, "run_tests")
    env.reset(seed=1)
    mend_all(env)
    with pytest.raises(InfrastructureError, match="no fork"):
        env.step(DONE)


def test_projects_hold_as_many_bugs_as_asked_for_in_functions_and_files_apart() -> None:
    for horizon in (1, 7, 100):
        project = build_project(draw_plan(np.random.default_rng(horizon), horizon))
        assert len({bug.function for bug in project.bugs}) == len(project.bugs) == horizon
        assert len({bug.path for bug in project.bugs}) >= horizon / 5
        different = {path for path, text in project.files.items() if text != project.right_files[path]}
        assert different == {bug.path for bug in project.bugs}
        for text in project.files.values():
            compile(text, "file", "exec")


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.stem)
def test_every_bug_of_every_part_shows(part: object) -> None:
    rng = np.random.default_rng(0)
    assert len(part.bugs) == 3
    for constants in [(a, b, c) for a in (2, 4, 12) for b in (23, 40) for c in (2, 4)]:
        right = define("f", source_of("f", part, part.body, constants))
        arguments = [args for _ in range(20) for args in draw_arguments(rng, part.parameters)]
        for old, new in part.bugs:
            assert part.body.count(old) == 1
            wrong = define("f", source_of("f", part, part.body.replace(old, new), constants))
            noticing = {ascii(args) for args in arguments if outcome_of(right, args) != outcome_of(wrong, args)}
            assert len(noticing) >= 4, (constants, old, new)


def test_module_names_shadow_nothing() -> None:
    import sys

    assert len(set(MODULE_NAMES)) == len(MODULE_NAMES)
    assert not set(MODULE_NAMES) & sys.stdlib_module_names


def test_a_hint_about_long_lines_takes_no_time() -> None:
    characters = np.array([chr(0x4E00 + number) for number in range(300)] * 60)
    line, asked = ("".join(np.random.default_rng(seed).permutation(characters)) for seed in (0, 1))
    started = time.process_time()
    with pytest.raises(ToolError, match=r"is not in a\.py"):
        _replace("a.py", f"{line}\n" * 4, asked, "x")
    assert time.process_time() - started < 1.0
