import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trm_agent.cli import main
from trm_envs.tasks.chain_math import MISTAKES, VALUE

REPOSITORY = Path(__file__).parents[2]
FAULTY = "tests.envs.faulty_envs"
FIGURES = {
    "steps_done_frac": 1.0,
    "answered_early": 0.0,
    "last_result_right": 1.0,
    **{f"first_mistake/{name}": 0.0 for name in MISTAKES},
}
REGISTERING = f"""
import gymnasium
for kind in ("Sound", "RewardsJunk", "HasNoSolver"):
    gymnasium.register(f"fakes/{{kind}}-v0", entry_point=f"{FAULTY}:{{kind}}")
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """A module in the current folder that registers fakes; its name is new for each test."""
    name = f"fakes_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(REGISTERING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(REPOSITORY), *sys.path])
    import gymnasium

    before = dict(gymnasium.registry)
    yield name
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def refused(capsys, *arguments):
    assert main(["envs", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_list_names_every_environment_with_options_and_protocols(capsys):
    import trm_envs

    assert main(["envs", "list", "--json"]) == 0
    entries = {entry["id"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(entries) == sorted([*trm_envs.registered_ids(), "trm/Gym-v0"])
    chain = entries["trm/ChainMath-v0"]
    assert chain["summary"].startswith("a chain of arithmetic steps")
    assert chain["options"]["horizon"] == 4
    assert chain["options"]["reveal"] == "stepwise"
    assert chain["protocols"] == ["hermes", "tags", "function_tags", "arg_tags"]
    assert main(["envs", "list"]) == 0
    out = capsys.readouterr().out
    assert 'options: horizon=4, split="train"' in out
    assert "protocols: hermes, tags, function_tags, arg_tags" in out
    for entry in entries.values():
        assert entry["summary"], entry["id"]
        assert entry["id"] in out


def test_list_with_a_module_names_its_environments_too(fakes, capsys):
    (Path(f"{fakes}_own.py")).write_text(
        "import gymnasium\nfrom tests.envs.faulty_envs import Sound\n\n\nclass Own(Sound):\n    '''Mine.'''\n\n\n"
        f"gymnasium.register('own/Own-v0', entry_point='{fakes}_own:Own', kwargs={{'horizon': 2}})\n"
    )
    assert main(["envs", "list", "--json", "--module", f"{fakes}_own"]) == 0
    own = json.loads(capsys.readouterr().out)[-1]
    assert (own["id"], own["summary"], own["options"]["horizon"]) == ("own/Own-v0", "Mine", 2)
    assert own["protocols"] == ["hermes", "fenced", "tags", "function_tags", "arg_tags"]


@pytest.mark.slow
def test_check_exits_0_where_all_passes_and_prints_the_figures(capsys):
    assert main(["envs", "check", "trm/ChainMath-v0", "--fuzz", "50", "--horizons", "1", "2"]) == 0
    out = capsys.readouterr().out
    assert "ok      solver:2" in out
    assert "skipped fuzz:fenced" in out
    assert "50 outputs in" in out
    assert out.endswith("checks: none failed\n")


def test_check_says_what_it_skipped(capsys):
    assert main(["envs", "check", "trm/ChainMath-v0", "--only", "fuzz:fenced", "junk", "--horizons", "1"]) == 0
    out = capsys.readouterr().out
    assert "skipped fuzz:fenced" in out
    assert out.endswith("1 skipped; 2 checks: none failed\n")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_check_exits_1_where_it_skipped_everything_and_says_so(capsys, form):
    assert main(["envs", "check", "trm/ChainMath-v0", "--only", "fuzz:fenced", *form]) == 1
    out = capsys.readouterr().out
    if form:
        assert [finding["outcome"] for finding in json.loads(out)] == ["skipped"]
    else:
        assert out.startswith("skipped fuzz:fenced")
        assert "none failed" not in out
        assert out.splitlines()[-1].startswith("nothing was checked: 1 skipped")


@pytest.mark.slow
def test_check_exits_1_where_a_check_fails(fakes, capsys):
    assert main(["envs", "check", f"{fakes}:fakes/RewardsJunk-v0", "--fuzz", "0", "--horizons", "1"]) == 1
    out = capsys.readouterr().out
    assert "failed  junk" in out
    assert "score() must give it 0.0" in out
    assert out.endswith("1 of 20 checks failed\n")


@pytest.mark.slow
def test_check_prints_json_and_takes_a_module_and_options(fakes, capsys):
    arguments = ["--module", fakes, "--json", "--fuzz", "5", "--option", "split=held_out", "--option", "horizon=2"]
    assert main(["envs", "check", "fakes/Sound-v0", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {finding["outcome"] for finding in found} == {"ok"}
    assert set(found[0]) == {"check", "outcome", "message", "seconds"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "trm/ChanMath-v0"], "did you mean 'trm/ChainMath-v0'"),
        (["check", "no_such_module:a/B-v0"], "cannot import 'no_such_module'"),
        (["check", "CartPole-v1"], "not a trm_envs.ToolEnv"),
        (["check", "trm/ChainMath-v0", "--horizons", "0"], "--horizons: got 0"),
        (["check", "trm/ChainMath-v0", "--fuzz", "-1"], "--fuzz: got -1"),
        (["check", "trm/ChainMath-v0", "--deadline", "nan"], "--deadline: got nan"),
        (["check", "trm/ChainMath-v0", "--option", "horizon"], "allowed: NAME=VALUE"),
        (["check", "trm/ChainMath-v0", "--option", "horizn=2"], "did you mean 'horizon'"),
        (["play", "trm/ChainMath-v0", "--protocol", "fenced"], "use protocol="),
        (["play", "trm/ChainMath-v0", "--seed", "-1"], "--seed: got -1"),
        (["play", "trm/ChainMat-v0"], "did you mean 'trm/ChainMath-v0'"),
        (["new", "Camel"], "small letters"),
        (["new", "../camel"], "small letters"),
        (["new", "json"], "a name that no module of Python"),
        (["new", "class"], "a name that no module of Python"),
    ],
)
def test_bad_input_exits_2_with_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    err = refused(capsys, *arguments)
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_solver_plays(capsys):
    arguments = ["--solver", "--seed", "3", "--horizon", "2", "--protocol", "tags", "--option", "reveal=upfront"]
    assert main(["envs", "play", "trm/ChainMath-v0", *arguments]) == 0
    out = capsys.readouterr().out
    assert "[system]\nFollow the steps" in out
    assert out.count("[assistant]") == 3
    assert "<calculator>" in out
    assert out.endswith(f"reward 1, terminated, success: True, numbers: {FIGURES}\n")


def test_a_person_plays_with_turns_of_several_lines(capsys, monkeypatch):
    call = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "1+1"}}\n</tool_call>\n.\n'
    monkeypatch.setattr("sys.stdin", io.StringIO(f"<tool_call>\n\n{call}\\boxed{{5}}"))
    assert main(["envs", "play", "trm/ChainMath-v0", "--horizon", "1"]) == 0
    out = capsys.readouterr().out
    assert "[tool (malformed call)]\nError: <tool_call> without </tool_call>" in out
    assert "[tool]\nResult: 2. Now give the final answer." in out
    wrong = {"last_result_right": 0.0, f"first_mistake/{VALUE}": 1.0, "first_mistake_turn": 2.0}
    assert out.endswith(f"reward 0, terminated, success: False, numbers: {FIGURES | wrong}\n")


def test_input_that_ends_early_ends_the_game(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\n"))
    assert main(["envs", "play", "trm/ChainMath-v0"]) == 0
    assert capsys.readouterr().out.endswith("(The input ended before the episode.)\n")


def test_without_a_solver_play_says_so(fakes, capsys):
    assert main(["envs", "play", f"{fakes}:fakes/HasNoSolver-v0", "--solver"]) == 2
    assert "define solution()" in capsys.readouterr().err


def run(folder, *command):
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'envs'}"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.slow
def test_a_new_package_passes_its_own_test_and_the_check(tmp_path, capsys):
    assert main(["envs", "new", "blue_camel", "--dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    *_, checked, trained = out.splitlines()
    assert checked.endswith("trm envs check blue_camel:blue_camel/BlueCamel-v0")
    assert trained == "then: trm train env=custom env.id=blue_camel:blue_camel/BlueCamel-v0"
    root = tmp_path / "blue_camel"
    tested = run(root, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert tested.returncode == 0, tested.stdout
    assert "22 passed" in tested.stdout
    checked = run(
        root,
        sys.executable,
        "-m",
        "trm_agent.cli",
        "envs",
        "check",
        "blue_camel:blue_camel/BlueCamel-v0",
        "--json",
        "--fuzz",
        "9",
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert {finding["outcome"] for finding in json.loads(checked.stdout)} == {"ok", "skipped"}


def test_the_new_environment_is_short_and_never_overwritten(tmp_path, capsys):
    assert main(["envs", "new", "my_env", "--dir", str(tmp_path)]) == 0
    path = tmp_path / "my_env" / "my_env" / "env.py"
    body = path.read_text().split("class MyEnv")[1].strip().splitlines()
    assert len([line for line in body if line.strip()]) <= 20
    path.write_text("mine")
    capsys.readouterr()
    assert "is there already" in refused(capsys, "new", "my_env", "--dir", str(tmp_path))
    assert path.read_text() == "mine"


BROKEN = """
import gymnasium
from trm_envs import ToolEnv, VerifierError

class Broken(ToolEnv):
    def make_task(self): return "?"
    def score(self, answer): raise VerifierError("the judge is gone; start it")

gymnasium.register(id="mine/Broken-v0", entry_point=Broken)
"""


def test_playing_on_when_the_verifier_fails_says_so_and_exits_with_1(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "broken_env.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\\boxed{5}\n\n"))
    assert main(["envs", "play", "broken_env:mine/Broken-v0"]) == 1
    assert "not the turn's fault" in (said := capsys.readouterr().err)
    assert "the judge is gone; start it" in said
    assert "Traceback" not in said
