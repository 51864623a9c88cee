"""A file in the current folder that is named like a package must not be taken for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trm_agent.runs.search_path import look_here_last
from trm_envs.scoring.pool import WorkerPool

TRAP = "open({marker!r}, 'w').close()\n"


def test_the_current_folder_comes_after_everything_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for first in ("", str(tmp_path)):
        monkeypatch.setattr(sys, "path", [first, "/a", str(tmp_path), "/b"])
        look_here_last()
        assert sys.path == ["/a", "/b", str(tmp_path)]
    monkeypatch.setenv("PYTHONPATH", f"/c{os.pathsep}{tmp_path}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/a"])
    look_here_last()
    assert sys.path == [str(tmp_path), "/a"]


@pytest.mark.parametrize(
    "name", ["math_verify", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sympy", "gymnasium"))]
)
def test_a_command_and_its_workers_import_nothing_that_only_looks_like_a_package(tmp_path: Path, name: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "?", "answer": "\\sqrt{8}"}) + "\n")
    marker = tmp_path / "ran"
    (tmp_path / f"{name}.py").write_text(TRAP.format(marker=str(marker)))
    options = [f"rows={rows}", "split=all", "sandbox=unsafe"]
    done = subprocess.run(
        [sys.executable, "-m", "trm_agent.cli", "envs", "play", "trm/PythonMath-v0", "--horizon", "1"]
        + [part for option in options for part in ("--option", option)],
        input="\\boxed{2\\sqrt{2}}\n\n", capture_output=True, text=True, timeout=100, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert "reward 1" in done.stdout, done.stderr
    assert not marker.exists()


def test_the_current_folder_is_not_on_a_workers_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import json, sys\nprint('{}', flush=True)\n"
    program += "for line in sys.stdin: print(json.dumps({'path': sys.path}), flush=True)"
    (tmp_path / "worker.py").write_text(program)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", ".", str(folder), *sys.path, str(folder)])
    pool = WorkerPool(1, [sys.executable, str(tmp_path / "worker.py")])
    try:
        path = pool.call({}, 5.0)["path"]
    finally:
        pool.close()
    assert not {"", ".", str(folder)} & set(path)
    assert set(filter(os.path.isabs, sys.path[3:-1])) <= {*path, str(folder)}
