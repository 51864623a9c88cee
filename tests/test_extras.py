"""Which packages a command needs: the table agrees with pyproject.toml and with the imports, and a gap is one line."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from trm_agent import cli, extras, train

REPOSITORY = Path(__file__).resolve().parent.parent
# the fork server's files import each other by path
# the last ones by their own names, as scripts of one folder
OURS = {"trm_agent", "trm_envs", "trm_fields", "client", "device_use", "forked", "preloads", "root_logger", "wire"}
# imported, and brought by a package that the table names
BROUGHT_BY = {"omegaconf": "hydra", "peft": "verl", "safetensors": "transformers", "tokenizers": "transformers"}
# of answers, programs and bridges: extras of environments, whose own messages name them
OF_ENVIRONMENTS = {"antlr4", "latex2sympy2_extended", "math_verify", "mpmath", "sympy", "reasoning_gym", "pyarrow"}


def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ]", line, maxsplit=1)[0].lower().replace("_", "-") for line in requirements}


def third_party_imports(folder: str) -> set[str]:
    found = set()
    for path in (REPOSITORY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).split(".")[0])
    return found - set(sys.stdlib_module_names) - OURS


def core_imports() -> set[str]:
    return {name.replace("-", "_") for name in names(project()["dependencies"])}


def test_an_author_of_environments_installs_four_packages_and_what_they_bring() -> None:
    assert names(project()["dependencies"]) == {"aiohttp", "gymnasium", "numpy", "sandbox-fusion"}


@pytest.mark.parametrize("name", extras.NEEDS)
def test_an_extra_names_each_package_that_its_command_needs(name: str) -> None:
    needs = extras.NEEDS[name]
    distributions = {extras.DISTRIBUTIONS.get(package, package).lower().replace("_", "-") for package in needs.packages}
    assert distributions <= names(project()["optional-dependencies"][needs.extra])


def test_no_file_imports_a_package_that_neither_the_core_nor_an_extra_brings() -> None:
    known = {package for needs in extras.NEEDS.values() for package in needs.packages}
    allowed = known | core_imports() | set(BROUGHT_BY) | {extras.ENGINE}
    assert third_party_imports("trm_agent") - allowed == set()
    assert third_party_imports("envs/trm_envs") - core_imports() - OF_ENVIRONMENTS == set()
    assert set(BROUGHT_BY.values()) <= known


@pytest.mark.parametrize(
    ("arguments", "package", "told"),
    [
        (
            ["bounds", "--horizon", "4", "--delta", "1", "--kl-seq", "1"],
            "torch",
            "trm bounds: torch is not installed; the extra 'analyze' brings it: pip install 'trm-agent[analyze]'",
        ),
        (["report", "x"], "yaml", "trm report: PyYAML is not installed; the extra 'report' brings it: pip install "),
        (["eval", "x", "--env", "y"], "hydra", "trm eval: hydra-core is not installed; the extra 'eval' brings it"),
        (["analyze", "x"], "pyarrow", "trm analyze: pyarrow is not installed; the extra 'analyze' brings it"),
    ],
)
def test_a_missing_package_is_one_line_that_names_its_extra(
    arguments: list[str], package: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {told}")
    assert err.count("\n") == 1


def test_training_says_all_that_it_lacks_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("ray", "transfer_queue"):
        monkeypatch.setitem(sys.modules, package, None)
    assert train.main(["--cfg"]) == train.BAD_INPUT
    assert capsys.readouterr().err == (
        "error: trm train: ray, TransferQueue are not installed; the extra 'train' brings them: "
        "pip install 'trm-agent[train]'\n"
    )


def test_a_missing_engine_is_named_with_where_each_machine_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match=r"trm eval: vllm .* pip install 'trm-agent\[gpu\]'; without, .*setup\.sh"):
        extras.require_engine("eval")


def test_a_folder_with_the_name_of_a_package_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no_such_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    needs = extras.Needs("trm odd", "odd", ("no_such_package",))
    monkeypatch.setitem(extras.NEEDS, "odd", needs)
    with pytest.raises(ValueError, match="no_such_package is not installed"):
        extras.require("odd")


def test_a_command_that_needs_the_core_alone_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "verl", "hydra", "yaml", "pyarrow"):
        monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["envs", "list"]) == 0


def test_the_page_about_installing_names_every_extra_and_no_other() -> None:
    page = (REPOSITORY / "docs" / "install.md").read_text(encoding="utf-8")
    # the extra for those who work on the project itself comes with scripts/setup.sh
    assert set(re.findall(r"pip install '\.\[(\w+)\]'", page)) | {"cpu"} == set(project()["optional-dependencies"]) - {
        "dev"
    }
