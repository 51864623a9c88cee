"""The recipes of CONTRIBUTING.md: what they name exists, and what is forgotten is found."""

import ast
import re
from pathlib import Path

import pytest

from trm_envs.registration import ENTRY_POINTS

REPOSITORY = Path(__file__).resolve().parent.parent
PATCHES = REPOSITORY / "trm_agent" / "verl_plugin" / "cpu" / "patches.py"
# of the worked example, which is not in the repository
OF_THE_EXAMPLE = {"trm_agent/conf/policy_loss/trm_median.yaml", "tests/criteria/test_median.py"}


def text(path: str) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def undocumented_envs(ids: list[str], pages: Path) -> list[str]:
    """The environments without a row in the list, or whose row names a page that is not there."""
    rows = dict(re.findall(r"^\| `(\S+)` \|.*\[page\]\((\S+)\) \|$", (pages / "README.md").read_text(), re.MULTILINE))
    return [env_id for env_id in ids if env_id not in rows or not (pages / rows[env_id]).is_file()]


def patches(source: str) -> set[str]:
    """The functions that replace another one: those that are marked."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and "setattr(" in ast.unparse(node):
            found.add(node.name)
        elif isinstance(node, ast.Expr) and ast.unparse(node).startswith("setattr("):
            found.add(ast.unparse(node)[len("setattr(") :].partition(",")[0])
    return found


def missing_patches(names: set[str], page: str, tests: str) -> list[str]:
    return sorted(name for name in names if f"| `{name}` |" not in page or f"def test_{name}_" not in tests)


def metrics_of(source: str) -> set[str]:
    """The metrics that a source names in full."""
    strings = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    return {each for each in strings if isinstance(each, str) and re.fullmatch(r"(trm|env|run)/\w+(/\w+)*", each)}


def undefined(metrics: set[str], page: str) -> list[str]:
    """The metrics that the page does not name, in full or as `name/mean`, `max`."""
    found = []
    for metric in sorted(metrics):
        head, _, last = metric.rpartition("/")
        if f"`{metric}" not in page and not re.search(rf"`{head}/\w+`[^|]*`{last}`", page):
            found.append(metric)
    return found


def test_every_file_that_the_recipes_name_exists() -> None:
    named = set(re.findall(r"\b((?:trm_agent|envs|tests|docs|scripts)/[\w/.]+\.\w+)\b", text("CONTRIBUTING.md")))
    assert len(named) > 20
    assert [path for path in sorted(named - OF_THE_EXAMPLE) if not (REPOSITORY / path).is_file()] == []


def test_every_environment_has_a_page_and_its_row() -> None:
    assert undocumented_envs(list(ENTRY_POINTS), REPOSITORY / "docs" / "environments") == []


@pytest.mark.parametrize("row", ["", "| `trm/New-v0` | task | none | turns | [page](new.md) |"])
def test_an_environment_without_a_page_or_a_row_is_found(row: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"| id | task |\n|---|---|\n{row}\n", encoding="utf-8")
    assert undocumented_envs(["trm/New-v0"], tmp_path) == ["trm/New-v0"]


def test_every_patch_has_a_row_and_a_test() -> None:
    names = patches(PATCHES.read_text(encoding="utf-8"))
    assert {"gloo_backend", "fused_log_probs"} <= names
    tests = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("test_*patch*.py"))
    assert missing_patches(names, text("docs/verl_on_cpu.md"), tests) == []


@pytest.mark.parametrize(
    ("page", "tests"),
    [("| `p` | verl |", "def test_q_applies"), ("", "def test_p_applies"), ("`p`", "def test_p_applies")],
)
def test_a_patch_without_a_row_or_a_test_is_found(page: str, tests: str) -> None:
    assert missing_patches(patches("def p(f):\n    setattr(f, MARK, True)"), page, tests) == ["p"]


def test_every_metric_that_the_plugin_names_is_defined() -> None:
    folder = REPOSITORY / "trm_agent" / "verl_plugin"
    metrics = {name for path in folder.rglob("*.py") for name in metrics_of(path.read_text(encoding="utf-8"))}
    assert len(metrics) > 10
    assert undefined(metrics, text("docs/metrics.md")) == []


def test_a_metric_without_a_definition_is_found() -> None:
    metrics = metrics_of("x = {'env/turns/max': 1, 'env/new': 2, 'trm/also/new': 3}\nprint('no/metric')")
    assert undefined(metrics, "| `env/turns/mean`, `max` | turns |") == ["env/new", "trm/also/new"]
