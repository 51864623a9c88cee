"""Find the types of dataclass fields in Python source, without importing it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from config_reads import Source

_SCALARS = {"int": "int", "float": "float", "bool": "bool", "str": "str"}
_LISTS = {"list", "List", "tuple", "Tuple", "Sequence"}
_DICTS = {"dict", "Dict", "Mapping"}


@dataclass(frozen=True)
class Declared:
    """One field of a dataclass."""

    type: str
    """`int`, `float`, `bool`, `str`, `list`, `dict` or `any`, with `?` where null is allowed."""
    cls: str
    """Dotted name of the dataclass that it holds; "" if it is none."""


def declared_fields(source: Source, dotted: str) -> dict[str, Declared] | None:
    """Return the fields of a dataclass and of its bases; None if the source has no such class.

    Args:
        source: where its module is.
        dotted: such as `verl.workers.config.RolloutConfig`.
    """
    found = _class(source, *dotted.rpartition(".")[::2])
    if found is None:
        return None
    module, definition = found
    fields: dict[str, Declared] = {}
    for base in definition.bases:
        if isinstance(base, ast.Name):
            fields |= declared_fields(source, f"{module}.{base.id}") or {}
    for item in definition.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id[0] != "_":
            name = ast.unparse(item.annotation).removeprefix("Optional[").removesuffix("]").partition(" |")[0]
            is_class = name.isidentifier() and _class(source, module, name) is not None
            fields[item.target.id] = Declared(type_of(item.annotation), f"{module}.{name}" if is_class else "")
    return fields


def type_of(annotation: ast.expr) -> str:
    """Return an annotation in our words."""
    names = set(_parts(annotation))
    optional = "?" if "None" in names else ""
    kinds = {_kind(name) for name in names - {"None"}}
    if kinds == {"int", "float"}:
        kinds = {"float"}
    return (kinds.pop() if len(kinds) == 1 else "any") + optional


def _kind(name: str) -> str:
    return _SCALARS.get(name) or ("list" if name in _LISTS else "dict" if name in _DICTS else "any")


def _parts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.BinOp):
        yield from (*_parts(node.left), *_parts(node.right))
    elif isinstance(node, ast.Subscript):
        name = ast.unparse(node.value).rpartition(".")[2]
        if name in ("Optional", "Union"):
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            for item in items:
                yield from _parts(item)
        if name != "Union":
            yield "None" if name == "Optional" else name
    elif isinstance(node, ast.Constant):
        yield "None" if node.value is None else str(node.value)
    else:
        yield ast.unparse(node).rpartition(".")[2]


def _class(source: Source, module: str, name: str, depth: int = 0) -> tuple[str, ast.ClassDef] | None:
    """Return the module and definition of a class that a module defines or imports."""
    tree = source.module(module)
    if tree is None or depth > 4:
        return None
    for item in tree.body:
        if isinstance(item, ast.ClassDef) and item.name == name:
            return module, item
    for item in tree.body:
        if isinstance(item, ast.ImportFrom):
            for alias in item.names:
                if alias.name in (name, "*") or alias.asname == name:
                    origin = _origin(source, module, item)
                    found = _class(source, origin, name if alias.name == "*" else alias.name, depth + 1)
                    if found is not None:
                        return found
    return None


def _origin(source: Source, module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    is_package = source.folder.joinpath(*module.split("."), "__init__.py").is_file()
    above = module.split(".")[: len(module.split(".")) - node.level + is_package]
    return ".".join((*above, *filter(None, (node.module,))))
