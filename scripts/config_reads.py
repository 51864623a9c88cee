"""Find the configuration fields that Python source reads and writes, without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# methods and functions that hand on a section, or one of its fields
_SAME = {"omega_conf_to_dataclass", "to_container", "cast", "create", "dict"}
_GETS = {"get", "pop", "setdefault"}
_ABOUT = {"keys", "values", "items", "update", "copy", "to_dict", "_get_root"}
_DEPTH = 3


@dataclass(frozen=True)
class Fields:
    """The fields of one piece of source."""

    read: frozenset[str]
    """Dotted paths that it reads; sections and attributes of values among them."""
    asked: frozenset[str]
    """Those of them that may be absent: read by `get`, `getattr` or `select`."""
    spread: frozenset[str]
    """Sections handed on whole, as keyword arguments or merged into another."""
    written: frozenset[str]
    """Dotted paths that it sets."""


@dataclass
class Source:
    """Modules below a folder, parsed when they are asked for."""

    folder: Path
    """The folder that holds the package."""
    parsed: dict[str, ast.Module] = field(default_factory=dict)
    """Dotted name of a module -> its tree."""

    def module(self, name: str) -> ast.Module | None:
        """Return a module's tree; None if there is no such file."""
        if name not in self.parsed:
            path = self.folder.joinpath(*name.split("."))
            file = path.with_suffix(".py")
            if not file.is_file():
                file = path / "__init__.py"
            if not file.is_file():
                return None
            self.parsed[name] = ast.parse(file.read_text(encoding="utf-8"))
        return self.parsed[name]


def fields_of(source: Source, place: str, roots: Mapping[str, str], only: tuple[str, ...] = ()) -> Fields:
    """Find the fields of a function or class.

    Args:
        source: where its module is.
        place: `module:function` or `module:Class`.
        roots: expression -> path of the section that it stands for, "" for the whole configuration.
        only: names of the methods that are looked at; empty for all.

    Raises:
        ValueError: there is no such function or class.
    """
    module, _, name = place.partition(":")
    tree = source.module(module)
    definition = next(
        (item for item in ast.walk(tree or ast.Module([], [])) if getattr(item, "name", "") == name), None
    )
    if definition is None:
        raise ValueError(f"{place}: no such class or function in the source under {source.folder}")
    reader = _Reader(source, module)
    functions = [definition]
    if isinstance(definition, ast.ClassDef):
        functions = [item for item in definition.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
    shared = dict(roots)
    # a constructor names the sections that the other methods read
    for _ in range(2):
        for function in functions:
            local = dict(shared)
            reader.aliases(function, local)
            shared |= {text: path for text, path in local.items() if text.startswith("self.")}
    for function in functions:
        if not only or function.name in only:
            reader.function(function, dict(shared), 0)
    return Fields(*map(frozenset, (reader.read, reader.asked, reader.spread, reader.written)))


class _Reader:
    def __init__(self, source: Source, module: str) -> None:
        self.source, self.module = source, module
        self.read: set[str] = set()
        self.asked: set[str] = set()
        self.spread: set[str] = set()
        self.written: set[str] = set()

    def function(self, function: ast.AST, names: dict[str, str], depth: int) -> None:
        self.aliases(function, names)
        for node, path in self._chains(function, names):
            if not isinstance(getattr(node, "ctx", None), ast.Store | ast.Del):
                self.read.add(path)
                self.asked |= {path} if isinstance(node, ast.Call) else set()
            elif not isinstance(node, ast.Name) and ast.unparse(node) not in names:
                self.written.add(path)
        for node in ast.walk(function):
            if isinstance(node, ast.Dict):
                spread = [item for key, item in zip(node.keys, node.values, strict=True) if key is None]
                self.spread |= {path for item in spread if (path := self.path(item, names))}
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                spread = [item.value for item in node.keywords if item.arg is None]
                spread += node.args if called == "merge" else []
                self.spread |= {path for item in spread if (path := self.path(item, names))}
                if called == "setdefault":
                    self.written |= {path} if (path := self.path(node, names)) else set()
                if depth < _DEPTH:
                    self._follow(node, names, depth)

    def aliases(self, function: ast.AST, names: dict[str, str]) -> None:
        """Add the names that a function gives to sections."""
        for node in ast.walk(function):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    pairs = [(target, node.value)]
                    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                        pairs = list(zip(target.elts, node.value.elts, strict=False))
                    for name, value in pairs:
                        path = self.path(value, names)
                        # a local name may be used anew; `self.x` and fields keep their first meaning
                        if path is not None and (isinstance(name, ast.Name) or self.path(name, names) is None):
                            names[ast.unparse(name)] = path

    def path(self, node: ast.AST, names: Mapping[str, str]) -> str | None:
        """Return the path of an expression; None if it is no part of the configuration."""
        if isinstance(node, ast.Name | ast.Attribute) and (text := ast.unparse(node)) in names:
            return names[text]
        if isinstance(node, ast.Attribute):
            return None if node.attr in _ABOUT | _GETS else _joined(self.path(node.value, names), node.attr)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            return _joined(self.path(node.value, names), node.slice.value)
        if isinstance(node, ast.BoolOp):
            return next((path for path in (self.path(item, names) for item in node.values) if path is not None), None)
        if isinstance(node, ast.Call):
            return self._called(node, names)
        return None

    def _called(self, node: ast.Call, names: Mapping[str, str]) -> str | None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        constants = [item.value if isinstance(item, ast.Constant) else None for item in node.args]
        if isinstance(node.func, ast.Attribute) and name in _GETS and constants:
            return _joined(self.path(node.func.value, names), constants[0])
        if name in ("getattr", "select") and len(constants) > 1:
            return _joined(self.path(node.args[0], names), constants[1])
        if name in _SAME:
            return next((path for path in (self.path(item, names) for item in node.args) if path is not None), None)
        return None

    def _chains(self, function: ast.AST, names: Mapping[str, str]) -> Iterator[tuple[ast.AST, str]]:
        """Yield the longest expressions that stand for a part of the configuration."""

        def visit(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
            path = None if isinstance(node, ast.BoolOp) else self.path(node, names)
            if path is None and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                # a method of a value
                path = self.path(node.func.value, names)
                if path:
                    yield node.func.value, path
                    for child in (*node.args, *node.keywords):
                        yield from visit(child)
                    return
            if path:
                yield node, path
                # defaults of a call may be fields as well
                waiting = list(node.args[1:]) if isinstance(node, ast.Call) else []
            else:
                waiting = list(ast.iter_child_nodes(node))
            for child in waiting:
                yield from visit(child)

        for child in ast.iter_child_nodes(function):
            yield from visit(child)

    def _follow(self, node: ast.Call, names: Mapping[str, str], depth: int) -> None:
        """Read a plain function of the package that gets a section."""
        if not isinstance(node.func, ast.Name) or node.func.id in _SAME:
            return
        given = [(number, self.path(item, names)) for number, item in enumerate(node.args)]
        named = [(item.arg, self.path(item.value, names)) for item in node.keywords]
        if all(path is None for _, path in (*given, *named)) or (found := self._find(node.func.id)) is None:
            return
        module, definition = found
        parameters = [item.arg for item in (*definition.args.posonlyargs, *definition.args.args)]
        inside = {parameters[number]: path for number, path in given if path is not None and number < len(parameters)}
        inside |= {str(name): path for name, path in named if path is not None}
        reader = _Reader(self.source, module)
        reader.function(definition, inside, depth + 1)
        self.read |= reader.read
        self.asked |= reader.asked
        self.spread |= reader.spread
        self.written |= reader.written

    def _find(self, name: str) -> tuple[str, ast.FunctionDef] | None:
        module = self.module
        for _ in range(_DEPTH):
            tree = self.source.module(module)
            if tree is None:
                return None
            for item in tree.body:
                if isinstance(item, ast.FunctionDef) and item.name == name:
                    return module, item
            imported = (
                (item.module, alias.name)
                for item in ast.walk(tree)
                if isinstance(item, ast.ImportFrom) and item.module and not item.level
                for alias in item.names
                if (alias.asname or alias.name) == name
            )
            found = next(imported, None)
            if found is None:
                return None
            module, name = found
        return None


def _joined(path: str | None, name: object) -> str | None:
    if path is None or not isinstance(name, str):
        return None
    return f"{path}.{name}" if path else name
