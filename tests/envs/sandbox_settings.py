"""The settings in which attacks on the sandbox are tried, as one fixture.

    from tests.envs.sandbox_settings import Setting, setting  # noqa: F401

    def test_...(setting: Setting) -> None:
        result = setting.run(code, limits=...)
        with setting.session() as session: ...

Each holds a `LocalSandbox` in a process of its own (`setting.pid`), for all tests of a module.
"""

import contextlib
import functools
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.envs import sandbox_host
from tests.envs.sandbox_support import TIGHT
from trm_envs.sandbox import Limits, Result

SETTINGS = ("root, cgroups", "root, no cgroups", "user, cgroups", "user, no cgroups")
NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"
ENVS = Path(__file__).parents[2] / "envs"
ANSWER_S = 180.0
CONTROLLERS = {"memory", "pids", "cpu", "freezer", ""}  # the last: those of version 2, which has one hierarchy
COMPLETE = "TRM_ALL_SETTINGS"
"""Name of the environment variable that turns a setting that cannot be had from a skip into a failure."""


class Setting:
    """A sandbox in a process of its own.

    Args:
        name: one of `SETTINGS`.
        process: the process.
        channel: the connection to it.
        memory: the memory group, of version 1, that it and everything that it starts is in; None without any.
    """

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", channel: Connection, memory: Path | None) -> None:
        self.name, self.pid, self.memory = name, process.pid, memory
        self.has_cgroups = name.endswith(", cgroups")
        self._channel, self._lock = channel, threading.Lock()
        self._numbers, self._keys = itertools.count(1), itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {0: Future()}
        threading.Thread(target=self._listen, daemon=True).start()
        self.isolation: dict[str, str] = self._waiting[0].result(ANSWER_S)

    def run(self, code: str, *, key: int = 0, **arguments: Any) -> Result:
        """Run a program as `LocalSandbox.run` does; may be called from several threads."""
        result: Result = self.ask("run", key, {"code": code, **arguments})
        return result

    @contextlib.contextmanager
    def session(self) -> Iterator["Session"]:
        """Open a session."""
        key = next(self._keys)
        self.ask("open", key)
        opened = Session(self, key)
        try:
            yield opened
        finally:
            if not opened.is_gone:
                self.ask("close", key)

    def evaluate(self, source: str) -> Any:
        """Execute statements beside the sandbox, which they know as `sandbox`; return what they set as `value`."""
        return self.ask("evaluate", source)

    def ask(self, name: str, *arguments: Any) -> Any:
        """Ask the process; an exception there is raised here."""
        answer: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = answer
            self._channel.send((number, name, arguments))
        return answer.result(ANSWER_S)

    def _listen(self) -> None:
        try:
            while True:
                number, value = self._channel.recv()
                answer = self._waiting.pop(number) if number else self._waiting[0]
                answer.set_exception(value) if isinstance(value, Exception) else answer.set_result(value)
        except (EOFError, OSError):
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(EOFError("the process with the sandbox is gone"))


class Session:
    """A session of a setting's sandbox."""

    def __init__(self, setting: Setting, key: int) -> None:
        self._setting, self.key, self.is_gone = setting, key, False

    def forget(self) -> None:
        """Leave it as it is: its process is gone."""
        self.is_gone = True

    def run(self, code: str, **arguments: Any) -> Result:
        """Run a cell."""
        return self._setting.run(code, key=self.key, **arguments)


@pytest.fixture(scope="module", params=SETTINGS)
def setting(request: pytest.FixtureRequest) -> Iterator[Setting]:
    """Each setting in its turn; one that cannot be had here is skipped, or fails where all are asked for."""
    with opened(request.param) as made:
        yield made


@contextlib.contextmanager
def opened(name: str, limits: Limits = TIGHT, **arguments: Any) -> Iterator[Setting]:
    """A setting, with arguments of `LocalSandbox`."""
    why = missing(name)
    if why is not None:
        skip_or_fail(f"{name}: {why}")
    arguments = {"cgroups": "auto" if name.endswith(", cgroups") else "off", "max_concurrent": 32, **arguments}
    with contextlib.ExitStack() as stack:
        is_user = name.startswith("user")
        owner = NOBODY if name == "user, cgroups" else 0
        folders = stack.enter_context(delegated(owner)) if owner or os.access("/sys/fs/cgroup", os.W_OK) else []
        process, channel = stack.enter_context(_started(is_user))
        for folder in folders:
            (folder / "cgroup.procs").write_text(str(process.pid))
        channel.send("go")
        channel.send({"limits": limits, **arguments})
        memory = next((folder for folder in folders if (folder / "memory.limit_in_bytes").exists()), None)
        yield Setting(name, process, channel, memory)


def skip_or_fail(why: str) -> NoReturn:
    """Skip a test that cannot be run here; fail it where all are asked for."""
    if os.environ.get(COMPLETE):
        pytest.fail(why)
    pytest.skip(why)


def missing(name: str) -> str | None:
    """Return why a setting cannot be had here; None if it can."""
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return "needs Linux and bubblewrap (apt-get install bubblewrap)"
    if os.geteuid() != 0:
        return "needs root, for it changes users and cgroups"
    if name.startswith("user") and not os.path.exists(SYSTEM_PYTHON):
        return f"needs {SYSTEM_PYTHON} (apt-get install python3)"
    if name.endswith(", cgroups") and not own_groups():
        return "needs a cgroup hierarchy in which root can make groups"
    return None


def own_groups() -> list[Path]:
    """The folders of this process's own cgroups, one a hierarchy, that can be written."""
    folders = []
    paths = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        target, options = Path(fields.split()[4]), kind.split()
        controllers = [""] if options[0] == "cgroup2" else options[-1].split(",") if options[0] == "cgroup" else []
        used = CONTROLLERS & set(controllers)
        for path in {paths[name] for name in paths if used & set(name.split(","))}:
            folder = target / path.lstrip("/")
            if os.access(folder / "cgroup.procs", os.W_OK):
                folders.append(folder)
    return folders


@contextlib.contextmanager
def delegated(uid: int) -> Iterator[list[Path]]:
    """Folders beneath this process's own cgroups that belong to a user, as systemd delegates them."""
    folders: list[Path] = []
    try:
        for group in own_groups():
            for left in group.glob("trm-delegated-*-*"):  # by tests that were killed
                if not os.path.exists(f"/proc/{left.name.split('-')[2]}"):
                    with contextlib.suppress(OSError):  # tests that run beside remove it too
                        remove(left)
            folder = Path(tempfile.mkdtemp(prefix=f"trm-delegated-{os.getpid()}-", dir=group))
            folders.append(folder)
            folder.chmod(0o755)
            for path in (folder, *(folder / name for name in ("cgroup.procs", "cgroup.subtree_control", "tasks"))):
                if path.exists():
                    os.chown(path, uid, uid)
        yield folders
    finally:
        for folder in folders:
            remove(folder)


def remove(folder: Path) -> None:
    """Remove a cgroup and those beneath, which may take the kernel a moment after the last process."""
    for inner in folder.iterdir():
        if inner.is_dir():
            remove(inner)
    for _ in range(1000):
        with contextlib.suppress(OSError):
            return folder.rmdir()
        threading.Event().wait(0.01)


@functools.cache
def _copy() -> tempfile.TemporaryDirectory[str]:
    """The package where any user can read it, without the environments and the libraries that those need."""
    folder = tempfile.TemporaryDirectory(prefix="trm-envs-")
    for package in ("trm_envs", "trm_fields"):
        shutil.copytree(ENVS / package, f"{folder.name}/{package}", ignore=shutil.ignore_patterns("__pycache__"))
    Path(folder.name, "trm_envs", "__init__.py").write_text("")
    shutil.copy(sandbox_host.__file__, folder.name)
    subprocess.run(["chmod", "-R", "a+rX", folder.name], check=True)
    return folder


@contextlib.contextmanager
def _started(is_user: bool) -> Iterator[tuple["subprocess.Popen[bytes]", Connection]]:
    ours, theirs = socket.socketpair()
    channel = Connection(ours.detach())
    script, path = (f"{_copy().name}/sandbox_host.py", _copy().name) if is_user else (sandbox_host.__file__, str(ENVS))
    with channel, theirs:
        process = subprocess.Popen(
            [SYSTEM_PYTHON if is_user else sys.executable, "-B", script, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": path},
            cwd="/",
            **({"user": NOBODY, "group": NOBODY, "extra_groups": []} if is_user else {}),  # type: ignore[arg-type]
        )
        theirs.close()
        try:
            yield process, channel
        finally:
            with contextlib.suppress(OSError):  # it may be gone
                channel.send(None)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
