"""docs/metrics.md against the code: names are read from the source, an f-string's hole becomes `*`."""

import ast
import re
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path

from trm_agent.core.bounds import ErrorBounds
from trm_agent.runs.failures import AFTER_MALFORMED, CLEAN
from trm_agent.runs.screen import EQUAL_GROUPS
from trm_agent.trust_region.criteria import CRITERIA

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trm_agent"
# the files that write metrics; the other readers of names, such as the report, write none
WRITERS = [*PACKAGE.glob("verl_plugin/driver/*.py"), *PACKAGE.glob("verl_plugin/actor/*.py")]
NAME = re.compile(r"(trm|env|run)/[\w/*]*[\w*]")
ENVIRONMENT = re.compile(r"trm/[A-Z]")


def pattern(node: ast.AST) -> str | None:
    """A string or an f-string, `*` for each hole."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def keys(tree: ast.AST) -> set[str]:
    found: set[str | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            found |= {pattern(key) for key in node.keys if key is not None}
        elif isinstance(node, ast.DictComp):
            found.add(pattern(node.key))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ratios":
            found |= {pattern(name.elt) for name in node.args if isinstance(name, ast.ListComp)}
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            found.add(pattern(node.slice))
    return {name for name in found if name}


def keys_of_metrics(path: Path) -> set[str]:
    """The names that the functions of a file write whose own names say that they form metrics."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name.endswith("_metrics")]
    return {name for function in functions for name in keys(function)}


def written() -> set[str]:
    names = set()
    for path in WRITERS:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        strings = {pattern(node) for node in nodes if id(node) not in parts}
        names |= {text for text in strings if text and NAME.fullmatch(text) and not ENVIRONMENT.match(text)}
    names = {name for name in names if name != "trm/*" and not name.endswith("_")}  # prefixes
    # `bound_*` of summarize is one field each
    sources = [(PACKAGE / "core" / file).read_text(encoding="utf-8") for file in ("summary.py", "sampled_bounds.py")]
    of_updates = {name for source in sources for name in keys(ast.parse(source))} - {"bound_*", "*"}
    of_updates |= {name for path in PACKAGE.glob("core/*.py") for name in keys_of_metrics(path)}
    names |= {f"trm/{name}" for name in of_updates} | {f"trm/bound_{field.name}" for field in fields(ErrorBounds)}
    limits = [row.limits for row in CRITERIA.values() if row.limits]
    names |= {limit.metric for limit in limits}
    adapting = [row.thresholds[0].name for row in CRITERIA.values() if row.limits]
    names |= {f"trm/{name}" for name in adapting}
    # the driver has these from their readers
    names |= {EQUAL_GROUPS, f"{CLEAN}/h*/*", f"{AFTER_MALFORMED}/h*/*"}
    # validation counts failures as training does
    failures = {name for name in names if name.startswith("env/infrastructure_failures")}
    return names | {name.replace("env/", "env/val_") for name in failures}


def documented(page: str) -> set[str]:
    """The names in the first cells of the page's tables."""
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    names = {re.sub(r"<[^>]*>", "*", name) for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    return {name for name in names if re.match(r"(trm|env|run)/", name)}


def unmatched(names: set[str], others: set[str]) -> list[str]:
    return sorted(n for n in names if not any(fnmatch(n, o) or fnmatch(o, n) for o in others))


def test_every_metric_is_in_the_page_and_the_page_holds_no_other():
    page = documented((ROOT / "docs/metrics.md").read_text(encoding="utf-8"))
    names = written()
    assert len(names) > 60
    # a placeholder for all of a branch would cover everything below it
    whole = {name for name in page if "*" not in name}
    assert unmatched({name for name in names if "*" not in name}, whole) == []
    assert unmatched(names, page) == []
    assert unmatched(page, names) == []


def test_a_stored_runs_metrics_are_in_the_page():
    page = documented((ROOT / "docs/metrics.md").read_text(encoding="utf-8"))
    rows = (ROOT / "tests/old_files/run/metrics.jsonl").read_text(encoding="utf-8")
    names = set(re.findall(r'"((?:trm|env|run)/[^"]+)"', rows))
    assert len(names) > 40
    assert unmatched(names, page) == []


def test_a_name_that_is_missing_or_that_nothing_writes_is_found():
    names = {"trm/acceptance", "env/task/*"}
    assert unmatched(names, {"env/task/*"}) == ["trm/acceptance"]
    assert unmatched({"trm/gone", "env/task/accuracy"}, names) == ["trm/gone"]


def test_a_name_is_found_in_each_way_to_write_one():
    source = """values = {"a": 1, f"b_{x}": 2} | {f"c_{i}": i for i in x}
values["d"] = values["read"]"""
    assert keys(ast.parse(source)) == {"a", "b_*", "c_*", "d"}
