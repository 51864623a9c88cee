"""`scripts/structure.py` on made-up modules, and the limits that the repository keeps."""

from typing import Any

import pytest

from tests.structure_script import structure

SOURCES = {
    "p": "",
    "p.a": "from p.b import middle\ndef start(x, y):\n    z = x + 1\n    middle(z)\n    return other(y)\n"
    "def other(y):\n    return y\n",
    "p.b": "from p.sub import last\ndef middle(value):\n    return last(value)\n",
    # an index hands a name on
    "p.sub": "from p.sub.deep import last",
    "p.sub.deep": "def last(value):\n    from p import c\n    return c.end(value)\n",
    "p.c": "def end(value):\n    return value\n",
}
PACKAGES = {"p", "p.sub"}


def modules(**changed: str) -> dict[str, Any]:
    sources = {**SOURCES, **{name.replace("__", "."): source for name, source in changed.items()}}
    return {name: structure.read_module(name, name in PACKAGES, source) for name, source in sources.items()}


def test_a_walk_enters_each_file_that_receives_the_value() -> None:
    assert structure.walk(modules(), "p.a:start:x") == ["p.a", "p.b", "p.sub.deep", "p.c"]
    # y stays in its file
    assert structure.walk(modules(), "p.a:start:y") == ["p.a"]


def test_a_walk_comes_back_and_enters_a_function_once() -> None:
    # middle hands on to end, then to last, which hands on to end again: seen
    back = "from p.sub import last\nfrom p.c import end\ndef middle(value):\n    end(value)\n    last(value)\n"
    assert structure.walk(modules(p__b=back), "p.a:start:x") == ["p.a", "p.b", "p.c", "p.sub.deep"]


@pytest.mark.parametrize("start", ["p.a:start:nothing", "p.a:nowhere:x", "p.nowhere:start:x"])
def test_a_walk_from_nowhere_is_refused(start: str) -> None:
    with pytest.raises(ValueError, match="MODULE:FUNCTION:PARAMETER"):
        structure.walk(modules(), start)


def test_imports_are_found_at_the_top_inside_functions_and_relative() -> None:
    found = modules(p__b="def f():\n    import p.c\ndef g():\n    from .sub import deep\n")
    assert structure.imported_modules(found["p.b"], found) == {"p.c", "p.sub.deep"}
    # two functions give two things one name: both count
    twice = modules(p__b="def f():\n    from p.a import start as x\ndef g():\n    from p.c import end as x\n")
    assert structure.imported_modules(twice["p.b"], twice) == {"p.a", "p.c"}


def test_rooms_and_sub_rooms() -> None:
    rooms = {name: (module.room, module.sub_room) for name, module in modules(p__sub__in__x="").items()}
    assert rooms["p.sub.deep"] == ("p.sub", "p.sub.deep")
    assert rooms["p.sub.in.x"] == ("p.sub", "p.sub.in")


def test_fan_out_counts_each_room_once() -> None:
    found = modules(p__a="import p.b\nfrom p.b import middle\nfrom p.sub.deep import last\nfrom p.sub import deep\n")
    assert structure.imports_between(found, lambda module: module.room)["p.a"] == {"p.b", "p.sub"}


def test_circles_are_found_and_a_chain_is_none() -> None:
    def arrows(found: dict[str, Any]) -> dict[str, set[str]]:
        return structure.imports_between(found, lambda module: module.room)

    assert structure.circles(arrows(modules())) == []
    assert structure.circles(arrows(modules(p__c="def f():\n    from p.b import middle"))) == [["p.b", "p.c", "p.sub"]]
    assert structure.circles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == [["a", "b"]]


def test_the_repository_keeps_its_limits() -> None:
    found = structure.read_modules()
    rooms = structure.imports_between(found, lambda module: module.room)
    groups = [rooms, *(structure.imports_between(found, of) for of in (lambda m: m.sub_room, lambda m: m.name))]
    assert [circle for group in groups for circle in structure.circles(group)] == []
    most = structure.MOST_IMPORTED_ROOMS
    assert {room: len(imports) for room, imports in rooms.items() if len(imports) > most} == {}
    lengths = {start: len(structure.walk(found, start)) for start in structure.WALKS}
    assert {start for start, length in lengths.items() if length > structure.WALKS[start]} <= {
        "trm_agent.train:train:config"
    }
