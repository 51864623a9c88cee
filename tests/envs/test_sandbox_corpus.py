"""Ordinary programs under the system-call filter: none meets a refusal that it cannot do without."""

import ctypes
import errno
import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.envs.bpf_machine import MACHINES, answer, numbers
from tests.envs.sandbox_corpus import BASH, COMPILER, LIBRARY, NUMPY
from tests.envs.sandbox_settings import skip_or_fail
from tests.envs.sandbox_support import MIB, needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox
from trm_envs.sandbox.guest import bpf, seccomp

MACHINE = os.uname().machine
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or MACHINE not in MACHINES, reason="the filter is Linux's"),
]

TAKEN_OTHERWISE = {
    "clone3": "ENOSYS",  # glibc takes clone
    "sendfile": "ENOSYS",  # shutil reads and writes
    "timer_create": "ENOSYS",  # `timeout` takes an alarm
    "membarrier": "ENOSYS",
    "pkey_alloc": "ENOSYS",
    "arch_prctl": "EINVAL",  # asks for what most processors or kernels lack
    "ioctl": "ENOTTY",  # asks whether files share their blocks
    "mbind": "EPERM",
    "fsetxattr": "ENOTSUP",  # `cp -a` copies the lists of access where there are some
}
"""What programs try, with the answer at which they do something else."""


class Recorder:
    """Runs a command under the filter and notes what it refuses, instead of which it asks this recorder."""

    def __init__(self) -> None:
        self.refused: Counter[tuple[str, str]] = Counter()
        self._names = {number: name for name, number in numbers(MACHINE).items()}

    def run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        here, there = socket.socketpair()
        with here, there:
            watcher = threading.Thread(target=self._watch, args=(here,))
            watcher.start()
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=60, preexec_fn=lambda: _install(there.fileno())
            )
            there.close()
            watcher.join()
        return done

    def _watch(self, channel: socket.socket) -> None:
        _, (listener,), _, _ = socket.recv_fds(channel, 1, 1)
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while poll.poll()[0][1] & select.POLLIN:
            question = bytearray(80)
            try:
                fcntl.ioctl(listener, 0xC0502100, question)
                number, _, _, call, _, _, *arguments = struct.unpack("QIIiIQ6Q", question)
                said = answer(MACHINE, call, *arguments)
                flags, error = (1, 0) if said == "ask" else (0, -getattr(errno, said))
                if said != "ask":
                    self.refused[self._names.get(call, str(call)), said] += 1
                fcntl.ioctl(listener, 0xC0182101, struct.pack("QqiI", number, 0, error, flags))
            except OSError:  # who asked has ended
                continue
        os.close(listener)


def _asking() -> bytes:
    """The filter with questions in the place of errors."""
    steps = []
    for code, if_true, if_false, value in struct.iter_unpack("HBBI", seccomp.program(MACHINE, True)):
        is_error = code == bpf.RETURN and value & 0xFFFF0000 == 0x50000 and value & 0xFFFF
        steps.append(bpf.step(code, 0x7FC00000 if is_error else value, if_true, if_false))
    return b"".join(steps)


CODE = _asking() if MACHINE in MACHINES and sys.platform == "linux" else b""
LIBC = ctypes.CDLL(None)


def _install(channel: int) -> None:
    """As the command's process: install the filter and send the listener."""
    LIBC.prctl(38, 1, 0, 0, 0)
    header = struct.pack("HxxxxxxP", len(CODE) // 8, ctypes.cast(ctypes.c_char_p(CODE), ctypes.c_void_p).value)
    listener = LIBC.syscall(seccomp.number_of("seccomp"), 1, 8, header)
    sock = socket.socket(fileno=channel)
    socket.send_fds(sock, [b"x"], [listener])
    sock.detach()
    os.close(listener)


def command_of(name: str, folder: str) -> list[str]:
    if name in ("library", "numpy"):
        Path(folder, "main.py").write_text(LIBRARY if name == "library" else NUMPY)  # a file: processes import it
        return [sys.executable, f"{folder}/main.py"]
    if name == "compiler" and shutil.which("gcc") is None:
        skip_or_fail("needs gcc (apt-get install gcc)")
    return ["bash", "-c", BASH if name == "bash" else COMPILER]


@pytest.mark.parametrize("name", ["library", "numpy", "bash", "compiler"])
def test_a_program_meets_no_refusal_but_those_that_it_can_do_without(name: str) -> None:
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        done = recorder.run(command_of(name, folder))
    assert done.stdout.endswith("done\n"), (done.stdout[-500:], done.stderr[-2000:], recorder.refused)
    assert {call: said for call, said in recorder.refused if TAKEN_OTHERWISE.get(call) != said} == {}, recorder.refused


@needs_bubblewrap
@pytest.mark.parametrize("name", ["library", "bash", "compiler"])
def test_the_same_programs_work_in_the_sandbox(name: str) -> None:
    limits = Limits(wall_s=60, cpu_s=60, memory_bytes=1024 * MIB, processes=64)
    code = {"library": "python3 library.py", "bash": BASH, "compiler": COMPILER}[name]
    if name == "compiler" and shutil.which("gcc") is None:
        skip_or_fail("needs gcc (apt-get install gcc)")
    with LocalSandbox(limits) as sandbox:
        for _ in range(5):
            result = sandbox.run(code, "bash", files={"library.py": LIBRARY})
            if "Too many references" not in result.stderr:
                break  # else other calls of the user had all descriptors in flight, as of tests that run beside
    assert result.stdout.endswith("done\n"), result
