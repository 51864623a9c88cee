"""What a call sees of the machine's files and of its host's environment."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.envs.sandbox_support import TIGHT, needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox, SandboxUnavailable
from trm_envs.sandbox.local import libraries, mounts

pytestmark = [pytest.mark.slow, needs_bubblewrap]

BASE = os.path.realpath(sys.executable)
SYSTEM = os.path.realpath("/usr/bin/python3")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp/work", "LANG": "C.UTF-8", "TMPDIR": "/tmp"}
IMPORT_ALL = """
import glob, os, sys
names = {os.path.basename(path).split('.')[0] for path in glob.glob(os.path.dirname(os.__file__) + '/lib-dynload/*.so')}
done = []
for name in sorted(names):
    try:
        __import__(name)
        done.append(name)
    except ImportError: pass
print(done)
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home that anybody may enter, and that is the prefix of an interpreter."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        prefix = Path(folder, "home", "somebody")
        Path(prefix, "lib").mkdir(parents=True)
        for name in (".ssh", "bin", "lib/python2.7", "share"):
            Path(prefix, name).mkdir()
        for name in (".ssh/id", ".netrc", "bin/tool", "lib/libsecret.so", "lib/python2.7/x.py", "share/x"):
            Path(prefix, name).write_text("secret")
        shutil.copy(SYSTEM, prefix / "bin")
        library = os.path.basename(SYSTEM)
        left_out = shutil.ignore_patterns("test", "__pycache__", "idlelib", "config-*", "tkinter", "site-packages")
        shutil.copytree(f"/usr/lib/{library}", prefix / "lib" / library, ignore=left_out, symlinks=False)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        yield prefix


@pytest.mark.skipif(not os.path.exists(f"/usr/lib/{os.path.basename(SYSTEM)}"), reason="needs Debian's python3")
def test_a_home_that_holds_an_interpreter_shows_the_interpreter_alone(home: Path) -> None:
    python = home / "bin" / os.path.basename(SYSTEM)
    look = f"import os, sys\nprint(sys.executable)\nfor place, folders, files in os.walk({str(home.parent)!r}):\n"
    look += "    if 'python3' in place: continue\n    print(os.path.relpath(place, '/'), sorted(files))"
    with LocalSandbox(Limits(wall_s=10), python=str(python)) as sandbox:
        said = sandbox.run(look).stdout.splitlines()
        result = sandbox.run("import ssl, sqlite3, ctypes\nprint(1)")
    assert result.stdout == "1\n", result.stderr
    top = os.path.relpath(home, "/")
    assert set(said) == {
        str(python),
        f"{os.path.dirname(top)} []",
        f"{top} []",
        f"{top}/bin ['{python.name}']",
        f"{top}/lib []",
    }


def test_an_interpreter_below_the_folder_that_each_call_has_of_its_own_is_refused() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        python = Path(folder, "bin", "python3.11")
        Path(folder, "lib", "python3.11").mkdir(parents=True)
        python.parent.mkdir()
        python.touch(0o755)
        Path(folder).chmod(0o755)
        with pytest.raises(SandboxUnavailable, match="not below /tmp"):
            mounts.find_python(str(python))


@pytest.mark.parametrize("python", sorted({BASE, SYSTEM}))
def test_an_interpreter_finds_all_libraries_of_its_modules(python: str) -> None:
    outside = subprocess.run([python, "-I", "-S", "-c", IMPORT_ALL], capture_output=True, text=True, check=True).stdout
    shown = mounts.arguments(python)
    bubblewrap = ["bwrap", "--unshare-all", "--clearenv", "--proc", "/proc", "--dev", "/dev", *shown]
    inside = subprocess.run([*bubblewrap, python, "-I", "-S", "-c", IMPORT_ALL], capture_output=True, text=True)
    assert inside.stdout == outside, inside.stderr
    assert len(ast.literal_eval(outside)) > 20


def test_libraries_are_found_as_the_dynamic_linker_finds_them() -> None:
    told = subprocess.run(["ldd", BASE], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0] for line in told.splitlines() if "=>" in line}
    paths = {line.split()[2] for line in told.splitlines() if "=>" in line}
    assert set(libraries.needs_of(BASE).names) <= names | {"ld-linux-x86-64.so.2"}
    outside = {path for path in paths if not mounts._in_system(path)}
    assert {os.path.realpath(path) for path in libraries.closure([BASE], [])} == set(map(os.path.realpath, outside))


def test_a_file_that_is_no_program_needs_nothing(tmp_path: Path) -> None:
    for number, data in enumerate((b"", b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 200, b"#!/bin/sh\n")):
        path = tmp_path / str(number)
        path.write_bytes(data)
        assert libraries.needs_of(str(path)) == libraries.Needs()


def test_the_environment_is_the_stated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET_KEY", "hush")
    look = "import os\nprint(dict(os.environ))\nprint(open('/proc/self/environ').read().split('\\0'))\n"
    look += "try: print(open('/proc/1/environ').read())\nexcept OSError: print('hidden')"
    with LocalSandbox(TIGHT) as sandbox, sandbox.session() as session:
        for runner in (sandbox, session):
            environment, at_start, of_one = runner.run(look).stdout.splitlines()
            assert ast.literal_eval(environment) == ENVIRONMENT
            assert {each.split("=")[0] for each in ast.literal_eval(at_start) if each} <= {
                *ENVIRONMENT,
                "LD_BIND_NOW",
                "MALLOC_ARENA_MAX",
                "PWD",
            }
            assert of_one == "hidden"
        said = sandbox.run("env", "bash").stdout
        assert {line.split("=")[0] for line in said.splitlines()} == {*ENVIRONMENT, "PWD", "SHLVL", "_"}
