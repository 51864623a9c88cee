import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import trm_agent.commands
import trm_agent.numerics
import trm_agent.warmstart
import trm_envs.commands
from trm_agent import __version__, cli


def set_command_that_raises(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: argparse.Namespace) -> int:
        raise error

    def add_parser(subparsers: argparse._SubParsersAction, summary: str) -> None:
        subparsers.add_parser("fail", help=summary).set_defaults(run=run)

    monkeypatch.setitem(sys.modules, "failing_command", SimpleNamespace(add_parser=add_parser))
    monkeypatch.setattr(cli, "COMMANDS", {"fail": cli.Command("failing_command", "fail")})


def test_help_names_every_command_and_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "example:\n  trm bounds" in text
    words = " ".join(text.split())
    for name, command in cli.COMMANDS.items():
        assert f" {name} {command.summary}" in words


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert f"example:\n  trm {name}" in capsys.readouterr().out


def test_every_module_of_the_rooms_of_commands_is_a_command():
    found = {
        f"{room.__name__}.{path.stem}"
        for room in (trm_agent.commands, trm_agent.numerics, trm_agent.warmstart, trm_envs.commands)
        for path in Path(room.__file__).parent.glob("*.py")
        if "def add_parser(" in path.read_text(encoding="utf-8")
    }
    assert {command.module for command in cli.COMMANDS.values()} == found


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        (["--help"], set()),
        (["--version"], set()),
        (["no-such-command", "bounds"], set()),
        (["bounds", "--help"], {"trm_agent.commands.bounds"}),
        # the value of an option may have the name of another command
        (["bounds", "--horizon", "doctor", "--help"], {"trm_agent.commands.bounds"}),
        (["envs", "--help"], {"trm_envs.commands.envs"}),
        (["train", "--help"], {"trm_agent.commands.train"}),
    ],
)
def test_no_other_command_is_imported_than_the_one_asked_for(arguments, loaded, monkeypatch, capsys):
    for command in cli.COMMANDS.values():
        monkeypatch.delitem(sys.modules, command.module, raising=False)
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert {command.module for command in cli.COMMANDS.values()} & set(sys.modules) == loaded


@pytest.mark.parametrize("error", [ValueError("field: got 3;\n allowed: 4"), FileNotFoundError(2, "No such file", "x")])
def test_bad_input_is_one_line_and_exit_code_2(error, monkeypatch, capsys):
    set_command_that_raises(error, monkeypatch)
    assert cli.main(["fail"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_file_that_cannot_be_read_is_named(monkeypatch, capsys):
    set_command_that_raises(FileNotFoundError(2, "No such file", "rows.jsonl"), monkeypatch)
    assert cli.main(["fail"]) == 2
    assert capsys.readouterr().err.startswith("error: rows.jsonl: No such file; check the path")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (PermissionError(13, "Permission denied", "x"), "check the path and its permissions"),
        (OSError(30, "Read-only file system", "x"), "choose a folder that can be written"),
        (OSError(28, "No space left on device", "x"), "free some space"),
        (NotADirectoryError(20, "Not a directory", "x"), "a part of the path is a file"),
    ],
)
def test_what_cannot_be_written_or_read_is_told_with_its_remedy(error, remedy, monkeypatch, capsys):
    set_command_that_raises(error, monkeypatch)
    assert cli.main(["fail"]) == 2
    assert remedy in capsys.readouterr().err


@pytest.mark.parametrize("defect", [KeyError("x"), ModuleNotFoundError("No module named 'trm_agent.nowhere'")])
def test_a_defect_is_not_disguised_as_bad_input(defect, monkeypatch):
    set_command_that_raises(defect, monkeypatch)
    with pytest.raises(type(defect)):
        cli.main(["fail"])


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"trm-agent {__version__}\n"


def test_an_unknown_command_exits_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["no-such-command"])
    assert stop.value.code == 2
    assert "usage: trm" in capsys.readouterr().err


def test_without_a_command_help_is_printed_and_nothing_imported(monkeypatch, capsys):
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: pytest.fail(name))
    assert cli.main([]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: trm ")
    assert err == ""


def test_training_takes_overrides_and_options_in_any_order():
    words = ["train", "seed=1", "--task", "code", "~trainer.logger", "--cfg", "+env.kwargs.protocol=json"]
    found = cli._parser(words).parse_args(words)
    assert (found.task, found.cfg) == ("code", True)
    assert found.overrides == ["seed=1", "~trainer.logger", "+env.kwargs.protocol=json"]


@pytest.mark.parametrize(
    "words", [["train", "--resume"], ["train", "seed=1", "--config-name=x"], ["train", "-x", "1"], ["bounds", "seed=1"]]
)
def test_an_unknown_option_or_word_is_refused_by_name(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, *(["--horizon", "1", "--delta", "1", "--kl-seq", "1"] if words[0] == "bounds" else [])])
    assert stop.value.code == 2
    assert next(word for word in words[1:] if word.startswith("-") or words[0] == "bounds") in capsys.readouterr().err


def test_the_command_is_installed_under_its_name():
    project = (Path(cli.__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert '\n[project.scripts]\ntrm = "trm_agent.cli:main"\n' in project


def test_it_runs_as_a_process():
    command = [sys.executable, "-m", "trm_agent.cli", "bounds", "--horizon", "-1", "--delta", "1", "--kl-seq", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --horizon: got -1")
