"""Time calls with two versions of the code in turn, so that a slow moment of the machine meets both.

Each version is a process that makes a call when it is asked to. The benchmark's own code is the same in both, so it
gives an older version no more than that knows (`known_fields`) and leaves out the calls that it lacks.
"""

import dataclasses
import importlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from trm_fields import refuse

Timed = Callable[[str], float]
"""From the name of a call to the seconds of one."""
HERE = Path(__file__).resolve().parents[1]
REPEATS = 21
LIMIT = 1.05
"""Median ratio to the version before above which a call counts as slower."""
# the child has this package from here, and all other code of ours from its own folder
_CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); import benchmarks; sys.path.pop(0)\n"
    "from benchmarks.in_turn import serve; serve(*sys.argv[2:])"
)


class Version:
    """A process that makes the calls of a benchmark with the code of a folder."""

    def __init__(self, tree: Path, module: str, *arguments: object) -> None:
        """Start it and wait until it is ready.

        Args:
            tree: a folder with `trm_agent` and `envs`, for example a git worktree.
            module: a benchmark whose `timed_calls` returns the calls: name -> function that makes one, in seconds.
            arguments: of `timed_calls`, which gets them as text.

        Raises:
            ValueError: the folder has no code of ours.
        """
        tree = tree.resolve()
        if not (tree / "trm_agent" / "__init__.py").exists():
            refuse("--before", str(tree), "a folder with trm_agent/ and envs/", "give one that `git worktree add` made")
        path = os.pathsep.join([str(tree), str(tree / "envs")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(HERE), module, *map(str, arguments)],
            cwd=tree,
            env={"VERL_PLATFORM": "cpu", **os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._answer()
        assert ready["imported"] == str(tree), f"the process imported {ready['imported']}"
        self.names: list[str] = ready["names"]

    def __call__(self, name: str) -> float:
        """Make a call and return its seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def __enter__(self) -> "Version":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.process.args!r} ended with {self.process.wait()}")
        return json.loads(line)


def serve(module: str, *arguments: str) -> None:
    """Make the calls whose names arrive on the standard input, one a line, and answer with their seconds."""
    import trm_agent

    # what libraries print must not stand between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    calls: dict[str, Callable[[], float]] = importlib.import_module(module).timed_calls(*arguments)
    ready = {"imported": str(Path(trm_agent.__file__).resolve().parents[1]), "names": list(calls)}
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(calls[line.rstrip("\n")]()), file=answers, flush=True)


def in_turn(versions: Mapping[str, Timed], names: Sequence[str], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Make each call once with each version, again and again, the first version first and last in turn.

    Args:
        versions: name -> its calls.
        names: of the calls.
        repeats: how often; two more, which do not count, warm up.

    Returns:
        Version -> call -> seconds of each repeat.
    """
    found: dict[str, dict[str, list[float]]] = {version: {name: [] for name in names} for version in versions}
    for repeat in range(repeats + 2):
        order = list(versions) if repeat % 2 else list(reversed(versions))
        for name in names:
            for version in order:
                found[version][name].append(versions[version](name))
    return {version: {name: all_[2:] for name, all_ in calls.items()} for version, calls in found.items()}


def ratio(now: Sequence[float], before: Sequence[float]) -> float:
    """Return the median ratio of the calls that followed each other."""
    return statistics.median(a / b for a, b in zip(now, before, strict=True))


def compare(before: Path, module: str, *arguments: object, repeats: int = REPEATS) -> None:
    """Print a benchmark's calls with this version and with another: milliseconds, and the median ratio of neighbours.

    Args:
        before: the folder of the other version.
        module: see `Version`.
        arguments: see `Version`.
        repeats: how often each call is made.
    """
    with Version(HERE, module, *arguments) as now, Version(before, module, *arguments) as other:
        names = [name for name in now.names if name in other.names]
        found = in_turn({"now": now, "before": other}, names, repeats)
    ratios = {name: ratio(found["now"][name], found["before"][name]) for name in names}
    print(f"{'median of ' + str(repeats) + ' calls in turn':<32}{'ms':>10}{'before':>10}{'ratio':>8}")
    for name in names:
        milliseconds = "".join(f"{1e3 * statistics.median(times[name]):>10.2f}" for times in found.values())
        print(f"{name:<32}{milliseconds}{ratios[name]:>8.3f}")
    if lacking := [name for name in now.names if name not in other.names]:
        print(f"{before} lacks: {', '.join(lacking)}")
    print(verdict(ratios))


def verdict(ratios: Mapping[str, float]) -> str:
    """Name the calls that are slower than those of the version before by more than `LIMIT` allows."""
    slower = [f"{name} ({value:.3f})" for name, value in ratios.items() if value > LIMIT]
    return f"above {LIMIT} times the version before: {', '.join(slower) or 'none'}"


def known_fields(kind: type, **values: object) -> dict[str, Any]:
    """Return those arguments that a version's dataclass has fields for."""
    assert dataclasses.is_dataclass(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in names}
