"""The start of a zygote inside bubblewrap, and the messages for people when that is refused."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources

from trm_envs.sandbox.interface import SandboxUnavailable
from trm_envs.sandbox.local import mounts
from trm_envs.sandbox.local.descriptors import in_memory

START_S = 20.0
NOBODY = 65534
_GUEST = "/opt/trm"
_SERVE = "import sys; sys.path.insert(0, {!r}); from guest import zygote; sys.path.pop(0); zygote.serve({})"
# the zygote takes the last two out again: it has looked its symbols up before it forks, and its threads, of which each
# would reserve address space for its own, share what they allocate from
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp/work",
    "LANG": "C.UTF-8",
    "TMPDIR": "/tmp",
    "LD_BIND_NOW": "1",
    "MALLOC_ARENA_MAX": "2",
}
# a package that makes a thread a processor as it is imported would leave a program few of its own
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_USER = 1000
_FILES = {
    "/etc/passwd": f"sandbox:x:{_USER}:{_USER}::/tmp/work:/bin/bash\n",
    "/etc/group": f"sandbox:x:{_USER}:\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n127.0.0.1 sandbox\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
"""Files that name the user, the machine and its loopback, so that a program need not know that it has no others."""
REMEDIES = (
    ("setting up uid map", "user namespaces are refused; on Ubuntu 24.04 add an AppArmor profile with `userns,` for "
     "bwrap"),
    ("No permissions to creat", "user namespaces are refused; set kernel.unprivileged_userns_clone=1, or on Ubuntu "
     "24.04 add an AppArmor profile with `userns,` for bwrap"),
    ("Creating new namespace failed", "user namespaces are refused; in docker pass --security-opt seccomp=unconfined "
     "--security-opt systempaths=unconfined"),
    ("Operation not permitted", "namespaces or mounts are refused; in docker pass --security-opt seccomp=unconfined "
     "--security-opt systempaths=unconfined"),
    ("No such file", "the Python inside lacks a part; pass python= a complete one, such as /usr/bin/python3"),
)  # fmt: skip


def find_bubblewrap() -> str:
    """Return the path of `bwrap`.

    Raises:
        SandboxUnavailable: if this is not Linux or bubblewrap is not installed.
    """
    if sys.platform != "linux":
        raise SandboxUnavailable(
            f"the local sandbox needs Linux, this is {sys.platform}; run it in a Linux machine or container"
        )
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxUnavailable(
            "the local sandbox needs bubblewrap: `bwrap` is not on PATH; apt-get install bubblewrap"
        )
    return path


def command(
    bwrap: str,
    python: str,
    control_fd: int,
    preload: Sequence[str],
    data_fds: dict[str, int],
    packages: Sequence[str] = (),
    counts: bool = False,
) -> list[str]:
    """Return the command line that starts a zygote, which has threads and processes counted or not."""
    args = [bwrap, "--unshare-all", "--unshare-user", "--as-pid-1", "--new-session", "--clearenv"]
    args += ["--uid", str(_USER), "--gid", str(_USER), "--hostname", "sandbox"]
    for name, value in {**_ENVIRONMENT, **(_ONE_THREAD if packages else {})}.items():
        args += ["--setenv", name, value]
    args += mounts.arguments(python, packages)
    for path, fd in data_fds.items():
        args += ["--ro-bind-data" if path.startswith(_GUEST) else "--file", str(fd), path]
    args += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--dir", "/tmp"]
    args += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]
    arguments = f"{control_fd}, {list(preload)!r}, {mounts.PACKAGES!r}, {counts}"
    return [*args, python, "-I", "-B", "-c", _SERVE.format(_GUEST, arguments)]


def start(
    bwrap: str, python: str, preload: Sequence[str], packages: Sequence[str] = (), counts: bool = False
) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a zygote; return its process and the control socket.

    Raises:
        SandboxUnavailable: if it does not come up.
    """
    control, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    data_fds: dict[str, int] = {}
    with tempfile.TemporaryFile() as complaints, inside:
        try:
            for item in resources.files("trm_envs.sandbox.guest").iterdir():
                if item.name.endswith(".py"):
                    data_fds[f"{_GUEST}/guest/{item.name}"] = in_memory(item.read_bytes())
            for path, text in _FILES.items():
                data_fds[path] = in_memory(text.encode())
            args = command(bwrap, python, inside.fileno(), preload, data_fds, packages, counts)
            drop = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
            process = subprocess.Popen(  # type: ignore[call-overload]
                args,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=(inside.fileno(), *data_fds.values()),
                cwd="/",
                env={},
                **drop,
            )
        finally:
            for fd in data_fds.values():
                os.close(fd)
        inside.close()
        control.settimeout(START_S)
        try:
            ready = control.recv(16)
        except OSError:
            ready = b""
        if ready != b"ready":
            control.close()
            process.kill()
            process.wait()
            complaints.seek(0)
            raise SandboxUnavailable(explain(complaints.read(4000).decode("utf-8", "replace").strip()))
        return process, control


def explain(complaint: str) -> str:
    """Return why the sandbox did not start, and the remedy."""
    for sign, remedy in REMEDIES:
        if sign in complaint:
            return f"the local sandbox cannot be isolated here: {remedy}. It said: {complaint}"
    said = f"It said: {complaint}" if complaint else f"It said nothing within {START_S:.0f} s."
    return f"the local sandbox cannot be isolated here: try `bwrap --unshare-all --ro-bind / / true`. {said}"
