"""The arrows of the architecture: docs/architecture.md's tables say which room may import what, and may load what."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.structure_script import structure

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
OURS = set(structure.ROOTS)
# the fork server's files import each other by path
BY_PATH = {
    ("trm_agent.fork_server", name) for name in ("wire", "client", "forked", "device_use", "preloads", "root_logger")
}


def rows(first_column: str) -> list[list[str]]:
    """The rows of all tables whose first column has this title."""
    found: list[list[str]] = []
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        title, _, *body = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
        found += body if title[0] == first_column else []
    return found


def names(cell: str) -> list[str]:
    return re.findall(r"`([\w.]+)`", cell)


ROOMS = {names(room)[0]: set(names(allowed)) | set(names(packages)) for room, _, allowed, packages in rows("room")}
FORBIDDEN = {names(module)[0]: set(names(packages)) for module, packages in rows("import of")}
MODULES = structure.read_modules()


def offences(modules: dict[str, Any], allowed: dict[str, set[str]]) -> list[str]:
    """The imports that their room's row does not allow, the rooms without a row, the rows without a room."""
    rooms = {module.room for module in modules.values()}
    found = [f"{room}: no row in docs/architecture.md; add one" for room in rooms - allowed.keys()]
    found += [f"{room}: a row in docs/architecture.md, and no such room; remove it" for room in allowed.keys() - rooms]
    for module in modules.values():
        for name in structure.imported_modules(module, modules):
            target = modules[name].room
            if target not in allowed.get(module.room, {target}) | {module.room}:
                found.append(f"{module.name} imports {target}: not in the row of {module.room}")
        for package in {name.partition(".")[0] for name in module.imported} - sys.stdlib_module_names - OURS:
            if package not in allowed.get(module.room, {package}) and (module.room, package) not in BY_PATH:
                found.append(f"{module.name} imports {package}: not in the row of {module.room}")
    return sorted(found)


def planted(name: str, source: str) -> dict[str, Any]:
    """The modules with a line more in one of them, or with a module more."""
    before = MODULES.get(name)
    module = structure.read_module(name, before is not None and before.is_package, source)
    if before is not None:
        module.imported |= before.imported
    return {**MODULES, name: module}


def test_every_import_is_in_the_table() -> None:
    assert len(ROOMS) > 30
    assert offences(MODULES, ROOMS) == []


@pytest.mark.parametrize(
    ("module", "source", "offence"),
    [
        ("trm_agent.core.masks", "import verl", "imports verl"),
        ("trm_agent.core.masks", "def f():\n    import verl.trainer as t", "imports verl"),
        ("trm_agent.core.masks", "from trm_agent.episode.loop import run_episode", "imports trm_agent.episode"),
        ("trm_agent.core.masks", "def f():\n    from trm_agent import tasks", "imports trm_agent.tasks"),
        ("trm_agent.core.masks", "if TYPE_CHECKING:\n    from trm_envs import ToolEnv", "imports trm_envs:"),
        ("trm_agent.core.masks", "from ..episode import loop", "imports trm_agent.episode"),
        ("trm_agent.episode.loop", "import torch", "imports torch"),
        ("trm_fields.refusals", "from trm_agent.cli import main", "imports trm_agent.cli"),
        ("trm_envs.sandbox", "from trm_envs.tasks import chain_math", "imports trm_envs.tasks"),
        ("trm_envs.tasks.chain_math", "import trm_agent.extras", "imports trm_agent.extras"),
        ("trm_envs.tasks.chain_math", "import requests", "imports requests"),
        ("trm_agent.attic", "", "trm_agent.attic: no row"),
    ],
)
def test_a_planted_import_is_found(module: str, source: str, offence: str) -> None:
    (found,) = offences(planted(module, source), ROOMS)
    assert offence in found


def test_a_room_without_a_row_and_a_row_without_a_room_are_found() -> None:
    without = {room: allowed for room, allowed in ROOMS.items() if room != "trm_agent.core"}
    assert offences(MODULES, without) == ["trm_agent.core: no row in docs/architecture.md; add one"]
    (found,) = offences(MODULES, {**ROOMS, "trm_agent.attic": set()})
    assert found.startswith("trm_agent.attic: a row in docs/architecture.md, and no such room")


def test_the_table_allows_rooms_no_circle_and_names_only_rooms() -> None:
    first_party = {
        room: {name for name in allowed if name.partition(".")[0] in OURS} for room, allowed in ROOMS.items()
    }
    assert {name for allowed in first_party.values() for name in allowed} <= ROOMS.keys()
    assert structure.circles(first_party) == []


# the module and, of a package, every module in it
LOAD = """
import importlib, pkgutil, sys
room = importlib.import_module(sys.argv[1])
for child in pkgutil.iter_modules(getattr(room, "__path__", ())):
    importlib.import_module(f"{sys.argv[1]}.{child.name}")
print("\\n".join(sys.modules))
"""


def loaded_by(module: str, folders: Iterable[Path] = ()) -> set[str]:
    prepare = f"import sys; sys.path[:0] = {[str(folder) for folder in folders]}\n" if folders else ""
    command = [sys.executable, "-c", prepare + LOAD, module]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", FORBIDDEN)
def test_a_room_imports_nothing_above_it(module: str) -> None:
    loaded = loaded_by(module)
    assert module in loaded
    assert sorted(loaded & FORBIDDEN[module]) == []


def test_a_package_that_another_module_loads_is_found(tmp_path: Path) -> None:
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "planted" / "child.py").write_text("import trm_agent.extras", encoding="utf-8")
    assert "trm_agent.extras" in loaded_by("planted", [tmp_path])


def test_the_table_of_what_is_loaded_keeps_its_rows() -> None:
    heavy = {"torch", "verl", "vllm", "ray", "transformers"}
    assert heavy | {"trm_agent", "yaml", "pyarrow", "hydra"} <= FORBIDDEN["trm_envs"]
    assert heavy - {"torch"} | {"gymnasium", "trm_envs", "trm_agent.episode"} <= FORBIDDEN["trm_agent.core"]
    assert heavy | {"trm_agent.core"} <= FORBIDDEN["trm_agent.episode"]
    assert {"torch", "verl", "gymnasium", "trm_envs"} <= FORBIDDEN["trm_agent.trust_region.settings"]
    assert {"torch", "verl", "ray", "numpy", "gymnasium"} <= FORBIDDEN["trm_agent.fork_server.client"]
    for module in ("trm_agent.runs.compose", "trm_agent.train", "trm_agent.doctor", "trm_agent.cli"):
        assert heavy | {"hydra", "omegaconf", "yaml", "pyarrow", "matplotlib", "tqdm"} <= FORBIDDEN[module]
    for module in ("trm_agent.report", "trm_agent.evaluate.repeats", "trm_agent.evaluate.summary"):
        assert heavy - {"transformers"} | {"hydra", "omegaconf", "matplotlib", "tqdm"} <= FORBIDDEN[module]


def test_only_the_plugin_names_verl_and_only_it_and_the_engine_of_evaluation_name_vllm() -> None:
    assert {room for room, allowed in ROOMS.items() if "verl" in allowed} == {"trm_agent.verl_plugin"}
    naming = {name for name, each in MODULES.items() if any(it.partition(".")[0] == "vllm" for it in each.imported)}
    outside = {name for name in naming if not name.startswith("trm_agent.verl_plugin")}
    assert outside == {"trm_agent.evaluate.engines.vllm_engine"}


def test_nothing_imports_the_command_line() -> None:
    # the command line imports a subcommand by its name in a table; a subcommand may have its arguments beside it
    rooms = {"trm_agent.cli", "trm_agent.commands", "trm_envs.commands"}
    for module in MODULES.values():
        found = {MODULES[name].room for name in structure.imported_modules(module, MODULES)} & rooms
        assert found <= {module.room}, module.name
    assert not any(allowed & rooms for allowed in ROOMS.values())


def test_no_file_holds_two_concepts() -> None:
    sources = [
        path for folder in ("trm_agent", "envs", "tests", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py")
    ]
    long = {path.name: lines for path in sources if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300}
    assert len(sources) > 50
    assert long == {}
