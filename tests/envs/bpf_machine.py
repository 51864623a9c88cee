"""A machine for classic BPF, as the kernel's: what a system-call filter answers to a call."""

import errno
import struct

from trm_envs.sandbox.guest import seccomp, syscalls

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
GROUPS = (
    syscalls.ALLOWED, syscalls.CHECKED, syscalls.IDLE, syscalls.UNSUPPORTED, syscalls.ABSENT, syscalls.REFUSED,
)  # fmt: skip


def numbers(machine: str) -> dict[str, int]:
    """The numbers of all known calls that the machine has."""
    column = MACHINES[machine][1]
    return {name: pair[column] for group in GROUPS for name, pair in group.items() if pair[column] >= 0}


def answer(
    machine: str, call: str | int, *arguments: int, asks: bool = True, counts: bool = False, audit: int | None = None
) -> str:
    """The filter's answer: "allow", "ask", "kill", "0" or the name of an error."""
    number = call if isinstance(call, int) else numbers(machine)[call]
    architecture = MACHINES[machine][0] if audit is None else audit
    values = [value & (1 << 64) - 1 for value in (*arguments, *[0] * (6 - len(arguments)))]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *values)
    return told(_run(seccomp.program(machine, asks, counts), data))


def told(value: int) -> str:
    """A returned value in words."""
    kinds = {0x7FFF0000: "allow", 0x7FC00000: "ask", 0x80000000: "kill"}
    return kinds.get(value) or ("0" if value == 0x50000 else errno.errorcode[value & 0xFFFF])


def _run(code: bytes, data: bytes) -> int:
    at = loaded = 0
    while True:
        kind, if_true, if_false, value = struct.unpack_from("HBBI", code, 8 * at)
        at += 1
        if kind == 0x20:
            (loaded,) = struct.unpack_from("=I", data, value)
        elif kind == 0x54:
            loaded &= value
        elif kind == 0x05:
            at += value
        elif kind == 0x06:
            return value
        else:
            tests = {0x15: loaded == value, 0x25: loaded > value, 0x35: loaded >= value, 0x45: bool(loaded & value)}
            at += if_true if tests[kind] else if_false
