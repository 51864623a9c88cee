"""The sandbox that everything in one process shares, by name."""

import atexit
import os
import threading
from urllib.parse import urlsplit

from trm_envs.packages import Packages, find_packages
from trm_envs.sandbox.interface import Sandbox, SandboxUnavailable
from trm_envs.sandbox.local import demands
from trm_envs.sandbox.local.sandbox import PROBE_LIMITS, LocalSandbox
from trm_envs.sandbox.package_folder import check_probe
from trm_envs.sandbox.unsafe.sandbox import UnsafeSandbox
from trm_fields import nearest, refuse

NAMES = ("local", "unsafe")


class _Shared:
    """The sandboxes of one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sandboxes: dict[tuple[str, tuple[str, ...]], Sandbox] = {}


_shared = _Shared()
_of_parents: list[_Shared] = []


def shared_sandbox(name: str, pins: tuple[str, ...] = ()) -> Sandbox:
    """Return this process's sandbox of that name, made at the first call and closed at exit.

    Args:
        name: "local", "unsafe" (nothing is isolated), or the address of a SandboxFusion server.
        pins: packages that programs can import, such as `numpy==2.3.5`. A server is asked whether it has them.

    Raises:
        SandboxUnavailable: if it cannot be had on this machine, or a package is not there.
        ValueError: if the name is none of these, or a package is not installed.
    """
    if name != "local" and (names := demands.demanded()):
        raise SandboxUnavailable(
            f"{demands.FIELD}: {', '.join(names)} cannot be seen to hold with sandbox={name}; take sandbox=local, or "
            f"leave the demands out and make them where the server starts: {demands.DEMANDS}=... trm sandbox serve"
        )
    shared, key = _shared, (name, pins)
    with shared.lock:
        if key not in shared.sandboxes:
            shared.sandboxes[key] = _make(name, pins)
        return shared.sandboxes[key]


def isolation() -> dict[str, str]:
    """Return the means of confinement of this process's shared local sandboxes; empty if there is none."""
    with _shared.lock:
        local = [sandbox for sandbox in _shared.sandboxes.values() if isinstance(sandbox, LocalSandbox)]
    return local[0].isolation if local else {}


def close_shared() -> None:
    """Close all of this process's shared sandboxes; the next call of `shared_sandbox` makes new ones."""
    shared = _shared
    with shared.lock:
        while shared.sandboxes:
            shared.sandboxes.popitem()[1].close()


def _start_afresh() -> None:
    """In a forked child: leave the parent's sandboxes, and a lock that may be held, alone."""
    global _shared
    _of_parents.append(_shared)  # kept: to collect them would be to meddle with the parent's processes
    _shared = _Shared()


def _make(name: str, pins: tuple[str, ...]) -> Sandbox:
    if name == "local":
        try:
            return LocalSandbox(packages=find_packages(pins))
        except SandboxUnavailable as error:
            raise SandboxUnavailable(
                f"{error}\nOr take a SandboxFusion server, sandbox=http://HOST:8080. By hand, for code that you trust: "
                "sandbox=unsafe, which isolates nothing."
            ) from error
    if name == "unsafe":
        return UnsafeSandbox(packages=find_packages(pins))
    if isinstance(name, str) and name.startswith(("http://", "https://")) and urlsplit(name).hostname:
        from trm_envs.sandbox.fusion.sandbox import FusionSandbox

        sandbox = FusionSandbox(name)
        if pins:
            probe = Packages(pins).probe
            check_probe(Packages(pins), sandbox.run(probe, limits=PROBE_LIMITS))
        return sandbox
    near = nearest(str(name), [*NAMES, "http://", "https://"], "give one")
    refuse("sandbox", name, "local, unsafe, or an address http(s)://HOST:PORT", near)


os.register_at_fork(after_in_child=_start_afresh)
atexit.register(close_shared)
