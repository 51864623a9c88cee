"""A user's module is found although a folder has its name, and one that registers nothing is named."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

from trm_agent.cli import main
from trm_envs.own_modules import import_module, registered_by, told_of_unknown

REGISTERING = 'import gymnasium\ngymnasium.register("mine/{0}-v0", "tests.envs.faulty_envs:Sound")\n'


class Editable:
    """A finder as editable projects have them: after Python's own, by a table of names."""

    def __init__(self, **places: Path) -> None:
        self.places = places

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        return importlib.util.spec_from_file_location(name, self.places[name]) if name in self.places else None


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, on the path; modules and ids are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    modules, ids = set(sys.modules), dict(gymnasium.registry)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if name.startswith("own_"):
            del sys.modules[name]
    gymnasium.registry.clear()
    gymnasium.registry.update(ids)


def project(here: Path, name: str, code: str) -> Path:
    """A project's folder, installed in editable form."""
    (here / name).mkdir()
    file = here / name / f"{name}.py"
    file.write_text(code)
    sys.meta_path.append(Editable(**{name: file}))
    return file


def test_a_projects_folder_does_not_hide_the_module_installed_from_it(here: Path) -> None:
    file = project(here, "own_game", REGISTERING.format("Game"))
    assert import_module("own_game").__file__ == str(file)
    assert "mine/Game-v0" in registered_by("own_game")


def test_a_folder_that_was_imported_before_makes_room(here: Path) -> None:
    project(here, "own_early", REGISTERING.format("Early"))
    __import__("own_early")
    assert registered_by("own_early") == []
    import_module("own_early")
    assert registered_by("own_early") == ["mine/Early-v0"]


def test_folders_that_hide_nothing_stay_packages(here: Path) -> None:
    (here / "own_company").mkdir()
    (here / "own_company" / "games.py").write_text(REGISTERING.format("Company"))
    import_module("own_company.games")
    assert registered_by("own_company.games") == ["mine/Company-v0"]


def test_code_that_raises_raises_its_own_error(here: Path) -> None:
    project(here, "own_broken", "1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        import_module("own_broken")


@pytest.mark.parametrize(
    ("code", "env_id", "words"),
    [
        (None, "mine/A-v0", ["registered nothing (imported from", "without __init__.py", "pip install -e"]),
        ("x = 1\n", "mine/A-v0", ["registered nothing (imported from", "own_m.py)", "gymnasium.register('mine/A-v0'"]),
        (REGISTERING.format("Abc"), "mine/Abd-v0", ["registers others", "did you mean 'mine/Abc-v0'"]),
        ("import gymnasium\n", "CartPol-v1", ["registered nothing", "own_m.py)"]),
    ],
)
def test_an_id_that_the_module_lacks_is_refused_with_its_place(
    here: Path, capsys: pytest.CaptureFixture, code: str | None, env_id: str, words: list[str]
) -> None:
    if code is None:
        (here / "own_m").mkdir()
    else:
        (here / "own_m.py").write_text(code)
    import_module("own_m")
    told = told_of_unknown(env_id, "own_m")
    assert [word for word in words if word not in told] == [], told
    assert main(["envs", "check", f"own_m:{env_id}"]) == 2
    assert told in capsys.readouterr().err
