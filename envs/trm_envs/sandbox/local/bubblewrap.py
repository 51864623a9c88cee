"""The start of a zygote inside bubblewrap, and the messages for people when that is refused."""

import glob
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources

from trm_envs.sandbox.interface import SandboxUnavailable
from trm_envs.sandbox.local.descriptors import in_memory

START_S = 20.0
_NOBODY = 65534
_GUEST = "/opt/trm"
_PACKAGES = "/opt/packages"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
_SERVE = "import sys; sys.path.insert(0, {!r}); from guest import zygote; sys.path.pop(0); zygote.serve({}, {!r}, {!r})"
# the zygote takes the last one out again: it has looked its symbols up before it forks
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp/work", "LANG": "C.UTF-8", "TMPDIR": "/tmp", "LD_BIND_NOW": "1"}
# a package that makes a thread a processor as it is imported would leave a program few of its own
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
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


def find_python(asked: str | None) -> str:
    """Return a Python that the unprivileged user can read.

    Args:
        asked: the user's choice; None takes this interpreter if it can be read, else the system's.

    Raises:
        SandboxUnavailable: if there is none.
    """
    own = os.path.realpath(sys.executable)
    candidates = [asked] if asked is not None else [own, "/usr/bin/python3", "/usr/local/bin/python3"]
    for candidate in candidates:
        real = os.path.realpath(candidate)
        if os.path.isfile(real) and _readable_by_all(real) and (_in_system(real) or _own_prefix(real)):
            return real
    raise SandboxUnavailable(
        f"python = {asked!r}: found no interpreter that an unprivileged user can read, with its "
        f"lib/python3.x beside its bin/, among {', '.join(candidates)}; "
        "apt-get install python3, or pass python= another"
    )


def _in_system(path: str) -> bool:
    return any(path.startswith(f"{folder}/") for folder in _SYSTEM)


def _own_prefix(python: str) -> str | None:
    """Return the folder to mount for this interpreter; None if it holds more than an interpreter."""
    prefix = os.path.dirname(os.path.dirname(python))
    return prefix if prefix != "/" and glob.glob(f"{glob.escape(prefix)}/lib/python3.*") else None


def _readable_by_all(path: str) -> bool:
    if os.geteuid() != 0:
        return os.access(path, os.R_OK | os.X_OK)
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            return False
        path = os.path.dirname(path)
    return True


def command(
    bwrap: str,
    python: str,
    control_fd: int,
    preload: Sequence[str],
    guest_fds: dict[str, int],
    packages: Sequence[str] = (),
) -> list[str]:
    """Return the command line that starts a zygote."""
    args = [bwrap, "--unshare-all", "--unshare-user", "--as-pid-1", "--new-session", "--clearenv"]
    args += ["--uid", "1000", "--gid", "1000", "--hostname", "sandbox"]
    for name, value in {**_ENVIRONMENT, **(_ONE_THREAD if packages else {})}.items():
        args += ["--setenv", name, value]
    for path in _SYSTEM:
        if os.path.islink(path):
            args += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            args += ["--ro-bind", path, path]
    prefix = None if _in_system(python) else _own_prefix(python)
    if prefix is not None:
        args += ["--ro-bind", prefix, prefix]
    for entry in packages:
        args += ["--ro-bind", entry, f"{_PACKAGES}/{os.path.basename(entry)}"]
    for name, fd in guest_fds.items():
        args += ["--ro-bind-data", str(fd), f"{_GUEST}/guest/{name}"]
    args += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--dir", "/tmp"]
    args += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]
    return [*args, python, "-I", "-B", "-c", _SERVE.format(_GUEST, control_fd, list(preload), _PACKAGES)]


def start(
    bwrap: str, python: str, preload: Sequence[str], packages: Sequence[str] = ()
) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a zygote; return its process and the control socket.

    Raises:
        SandboxUnavailable: if it does not come up.
    """
    control, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    guest_fds: dict[str, int] = {}
    with tempfile.TemporaryFile() as complaints, inside:
        try:
            for item in resources.files("trm_envs.sandbox.guest").iterdir():
                if item.name.endswith(".py"):
                    guest_fds[item.name] = in_memory(item.read_bytes())
            args = command(bwrap, python, inside.fileno(), preload, guest_fds, packages)
            drop = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
            process = subprocess.Popen(  # type: ignore[call-overload]
                args,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=(inside.fileno(), *guest_fds.values()),
                cwd="/",
                env={},
                **drop,
            )
        finally:
            for fd in guest_fds.values():
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
