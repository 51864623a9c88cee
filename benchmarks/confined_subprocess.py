"""A subprocess as isolated as a call of the local sandbox as root: all of that is made for it, and removed after it.

Namespaces, mounts and a tmpfs by bubblewrap, the sandbox's own system-call filter, rlimits, an unprivileged user, and a
control group in each hierarchy.
"""

import os
import platform
import subprocess
import time

from trm_envs.sandbox import Limits
from trm_envs.sandbox.guest import seccomp
from trm_envs.sandbox.local import mounts
from trm_envs.sandbox.local.bubblewrap import NOBODY, find_bubblewrap
from trm_envs.sandbox.local.cgroups import Groups
from trm_envs.sandbox.local.descriptors import in_memory

_USER = "1000"
_DESCRIPTORS = 256


class ConfinedSubprocess:
    """Runs a program so, each time anew.

    Args:
        python: the interpreter.
        code: the program.
        limits: those of a call.
        groups: the control groups of this process, which must be allowed to make some.
    """

    def __init__(self, python: str, code: str, limits: Limits, groups: Groups) -> None:
        self._limits, self._groups = limits, groups
        self._filter = in_memory(seccomp.program(platform.machine(), False))
        rlimits = {
            "AS": limits.memory_bytes,
            "CPU": int(limits.cpu_s),
            "NPROC": limits.processes + 1,
            "FSIZE": limits.file_bytes,
            "NOFILE": _DESCRIPTORS,
        }
        lines = [f"resource.setrlimit(resource.RLIMIT_{name}, ({value},) * 2)" for name, value in rlimits.items()]
        real = os.path.realpath(python)
        command = [find_bubblewrap(), "--unshare-all", "--unshare-user", "--new-session", "--clearenv"]
        command += ["--uid", _USER, "--gid", _USER, "--hostname", "sandbox", "--setenv", "PATH", "/usr/bin:/bin"]
        command += [*mounts.arguments(real), "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm"]
        command += ["--size", str(limits.disk_bytes), "--tmpfs", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/"]
        command += ["--chdir", "/tmp", "--seccomp", str(self._filter), real, "-I", "-c"]
        self._command = [*command, "\n".join(["import resource", *lines, code])]

    def run(self) -> str:
        """Run the program once; return its output."""
        group = self._groups.new()
        assert group.limit(self._limits, self._limits.disk_bytes)
        os.lseek(self._filter, 0, os.SEEK_SET)

        def enter() -> None:
            group.admit([os.getpid()])
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)

        output = subprocess.run(
            self._command, capture_output=True, text=True, check=True, pass_fds=[self._filter], preexec_fn=enter
        ).stdout
        while not group.remove():
            time.sleep(0.0005)
        return output
