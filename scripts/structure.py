"""Print the structure of the source: rooms, what each imports, circles, and how far a parameter travels.

A room is what stands directly in `trm_agent` or `trm_envs`: a package with all that is in it, or a module; `trm_fields`
is one room. A sub-room is a package within a room. A walk follows one parameter of a function, and what is computed
from it there, through the calls that hand it on, depth first in the order of the code, into each function once. A stop
is a file that it enters; calls within one file are one stop.

    python scripts/structure.py            # the figures and their limits; exit status 1 if one is exceeded
    python scripts/structure.py --walk trm_agent.train:train:config
"""

import argparse
import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ROOTS = {"trm_agent": REPOSITORY, "trm_envs": REPOSITORY / "envs", "trm_fields": REPOSITORY / "envs"}
ONE_ROOM = "trm_fields"
MOST_IMPORTED_ROOMS = 10
# module:function:parameter -> the most stops that the walk may take
WALKS = {
    "trm_agent.verl_plugin.actor.policy_loss:compute_policy_loss_trm:log_prob": 12,
    "trm_agent.evaluate.request:build_plan:request": 20,
    "trm_agent.train:train:config": 14,
}


@dataclass
class Module:
    """One source file.

    Attributes:
        name: dotted.
        imports: local name -> dotted name that it stands for, everywhere in the file.
        imported: all dotted names that the file imports, also where two functions give two things one local name.
        functions: name, or Class.name -> definition.
    """

    name: str
    is_package: bool
    tree: ast.Module
    imports: dict[str, str] = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)
    functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = field(default_factory=dict)

    @property
    def room(self) -> str:
        """The first two parts of the name, or the first."""
        parts = self.name.split(".")
        return ".".join(parts[: 1 if parts[0] == ONE_ROOM else 2])

    @property
    def sub_room(self) -> str:
        """The package within a room that holds the module or is it; else the module itself."""
        parts = self.name.split(".")
        return ".".join(parts[:3]) if len(parts) > 3 else self.name


def read_modules() -> dict[str, Module]:
    """Read every module of the source: dotted name -> module."""
    modules = {}
    for root, folder in ROOTS.items():
        for path in sorted((folder / root).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            modules[name] = read_module(name, is_package, path.read_text(encoding="utf-8"))
    return modules


def imported_modules(module: Module, modules: dict[str, Module]) -> set[str]:
    """Return the modules of ours that a module imports, at its top or inside a function."""
    found = {name if name in modules else name.rpartition(".")[0] for name in module.imported}
    return {name for name in found if name in modules and name != module.name}


def imports_between(modules: dict[str, Module], group: Callable[[Module], str]) -> dict[str, set[str]]:
    """Group of modules -> the other groups that it imports."""
    groups: dict[str, set[str]] = {group(module): set() for module in modules.values()}
    for module in modules.values():
        groups[group(module)] |= {group(modules[name]) for name in imported_modules(module, modules)} - {group(module)}
    return groups


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of two or more nodes each of which reaches all others of its group."""
    reached = {node: _reachable(node, arrows) for node in arrows}
    groups = {tuple(sorted(other for other in reached[node] if node in reached[other])) for node in arrows}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def walk(modules: dict[str, Module], start: str) -> list[str]:
    """Follow a parameter, `module:function:parameter`, through the calls: the files that it enters, in order.

    Raises:
        ValueError: the source has no such function or parameter.
    """
    name, function, parameter = start.split(":")
    definition = modules[name].functions.get(function) if name in modules else None
    if definition is None or parameter not in _parameters(definition):
        raise ValueError(f"--walk: got {start!r}; allowed: MODULE:FUNCTION:PARAMETER of the source; check the three")
    stops: list[str] = []
    _follow(modules, modules[name], function, parameter, stops, set())
    return stops


def _follow(
    modules: dict[str, Module], module: Module, function: str, parameter: str, stops: list[str], seen: set[str]
) -> None:
    if f"{module.name}:{function}" in seen:
        return
    seen.add(f"{module.name}:{function}")
    if stops[-1:] != [module.name]:
        stops.append(module.name)
    names = {parameter}
    for node in _in_order(module.functions[function]):
        if isinstance(node, ast.Assign) and _reads(node.value, names):
            targets = (each for target in node.targets for each in ast.walk(target))
            names |= {target.id for target in targets if isinstance(target, ast.Name)} - {"self"}
        elif isinstance(node, ast.Call):
            called = _definition(modules, module, function, node.func)
            if called is not None:
                for received in _received(node, called[0].functions[called[1]], names):
                    _follow(modules, *called, received, stops, seen)


def _definition(
    modules: dict[str, Module], module: Module, function: str, called: ast.expr
) -> tuple[Module, str] | None:
    """Return the module and name of the function that an expression calls, if it is one of ours."""
    dotted = ast.unparse(called) if isinstance(called, ast.Name | ast.Attribute) else ""
    head, _, rest = dotted.partition(".")
    if head in ("self", "cls") and "." in function:
        return _in_module(module, f"{function.partition('.')[0]}.{rest}")
    target = module.imports.get(head)
    if target is None:
        return _in_module(module, dotted)
    path = f"{target}.{rest}" if rest else target
    for _ in range(3):  # a package hands on what its modules define
        owner = max((name for name in modules if path.startswith(f"{name}.")), key=len, default=None)
        if owner is None:
            return None
        name = path[len(owner) + 1 :]
        if (found := _in_module(modules[owner], name)) is not None:
            return found
        head, _, rest = name.partition(".")
        path = ".".join(filter(None, (modules[owner].imports.get(head, ""), rest)))
    return None


def _in_module(module: Module, name: str) -> tuple[Module, str] | None:
    return next(((module, each) for each in (name, f"{name}.__init__") if each in module.functions), None)


def _received(call: ast.Call, definition: ast.FunctionDef | ast.AsyncFunctionDef, names: set[str]) -> Iterator[str]:
    """Return the parameters by which a called function receives a part of what is followed."""
    parameters = _parameters(definition)
    if parameters[:1] in (["self"], ["cls"]):
        parameters = parameters[1:]
    for parameter, value in zip(parameters, call.args, strict=False):
        if _reads(value, names):
            yield parameter
    for keyword in call.keywords:
        if keyword.arg in parameters and _reads(keyword.value, names):
            yield keyword.arg


def _reads(value: ast.expr, names: set[str]) -> bool:
    """Whether an expression reads one of the names."""
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(value))


def _in_order(definition: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """Return a function's nodes in the order of the code, arguments before the call that takes them."""

    def visit(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            yield from visit(child)
        yield node

    for statement in definition.body:
        yield from visit(statement)


def _parameters(definition: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = definition.args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def read_module(name: str, is_package: bool, source: str) -> Module:
    """Read one module from its source text."""
    tree = ast.parse(source)
    module = Module(name, is_package, tree)
    for node in ast.walk(tree):
        names: dict[str, str] = {}
        if isinstance(node, ast.ImportFrom):
            above = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
            origin = ".".join((*above, *filter(None, (node.module,))))
            names = {each.asname or each.name: f"{origin}.{each.name}" for each in node.names}
            module.imported |= set(names.values())
        elif isinstance(node, ast.Import):
            names = {each.asname or each.name.partition(".")[0]: each.name for each in node.names}
            module.imported |= {each.name for each in node.names}
        module.imports |= names
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            module.functions[node.name] = node
        elif isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    module.functions[f"{node.name}.{child.name}"] = child
    return module


def _reachable(start: str, arrows: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for target in arrows.get(waiting.pop(), ()):
            if target not in found:
                found.add(target)
                waiting.append(target)
    return found


def main(argv: list[str] | None = None) -> int:
    """Print the figures; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--walk", metavar="MODULE:FUNCTION:PARAMETER", help="print the stops of this walk")
    arguments = parser.parse_args(argv)
    modules = read_modules()
    if arguments.walk:
        try:
            stops = walk(modules, arguments.walk)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        print("\n".join(f"{number:3}. {stop}" for number, stop in enumerate(stops, 1)))
        return 0
    rooms = imports_between(modules, lambda module: module.room)
    groups = (rooms, *(imports_between(modules, of) for of in (lambda each: each.sub_room, lambda each: each.name)))
    found = [circle for group in groups for circle in circles(group)]
    print(f"{len(modules)} files in {len(rooms)} rooms, {sum(map(len, rooms.values()))} imports between rooms")
    print(f"circles of rooms, sub-rooms or files: {len(found)}, at most 0")
    for circle in found:
        print(f"  {' <-> '.join(circle)}")
    crowded = {room: imports for room, imports in rooms.items() if len(imports) > MOST_IMPORTED_ROOMS}
    for room, imports in sorted(rooms.items(), key=lambda item: -len(item[1]))[:5]:
        print(f"{room} imports {len(imports)} rooms, at most {MOST_IMPORTED_ROOMS}")
    too_long = 0
    for start, most in WALKS.items():
        stops = walk(modules, start)
        too_long += len(stops) > most
        print(f"{start}: {len(stops)} stops, at most {most}")
    return int(bool(found or crowded or too_long))


if __name__ == "__main__":
    sys.exit(main())
