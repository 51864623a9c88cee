"""The wheel of the tracked files, and a virtual environment that holds it and its core dependencies alone."""

import fcntl
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
DATA = ("trm_agent/", "envs/trm_envs/", "envs/trm_fields/")


@dataclass(frozen=True)
class Installed:
    """What the tests look at."""

    wheel: Path
    python: Path
    """Of the environment with the core dependencies alone."""
    unpacked: Path
    """The wheel's files, to be put on the path of this interpreter, which has verl."""

    def run(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run the core environment's Python, with nothing of this one's in its environment."""
        command = [str(self.python), *arguments]
        environment = {"PATH": f"{self.python.parent}:/usr/bin:/bin"}
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100)


def installed(folder: Path) -> Installed:
    """Build and install, once for all processes that share the folder."""
    with _locked(folder / "lock"):
        if not (folder / "done").exists():
            _make(folder)
            (folder / "done").touch()
    return Installed(
        wheel=next((folder / "dist").glob("*.whl")),
        python=folder / "core" / "bin" / "python",
        unpacked=folder / "unpacked",
    )


def data_files() -> set[str]:
    """Tracked files of both packages that are not Python, as the wheel has to name them."""
    return {path.removeprefix("envs/") for path in _tracked() if path.startswith(DATA) and not path.endswith(".py")}


def _tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=20)
    return [path for path in done.stdout.splitlines() if (REPOSITORY / path).exists()]


def _make(folder: Path) -> None:
    # a copy: a build leaves folders beside its sources, and takes what an older one has left there
    source, dist = folder / "source", folder / "dist"
    for path in _tracked():
        copy = source / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / path, copy, follow_symlinks=False)
    _run([*PIP, "wheel", "--no-deps", "--wheel-dir", str(dist), "."], source)
    wheel = next(dist.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder / "core")], folder)
    _run([*PIP, "--python", str(folder / "core" / "bin" / "python"), "install", "--no-compile", str(wheel)], folder)


def _run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
