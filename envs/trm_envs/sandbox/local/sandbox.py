"""The local sandbox: bubblewrap around warm interpreters; a call costs a fork.

    host process --control socket--> zygote (in bubblewrap: unprivileged user, no network, no host files)
                                       fork -> supervisor: PID 1 of namespaces, one call at a time: limits, watch
                                                 fork -> the program: no capabilities, rlimits, seccomp filter

The connection of a call is its life line: when either side goes, the kernel ends every process of the call. Code,
streams and files go past the supervisor by descriptor; after a call that ended by itself it cleans its namespaces and
serves another one, whose program inherits a memory that has seen nothing.
"""

import dataclasses
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from trm_envs.packages import Packages
from trm_envs.sandbox import package_folder
from trm_envs.sandbox.interface import Limits, SandboxUnavailable
from trm_envs.sandbox.local import bubblewrap, demands, holds, mounts
from trm_envs.sandbox.local.cgroups import Groups, groups_of_this_process, no_groups
from trm_envs.sandbox.local.connection import Call, Zygote
from trm_envs.sandbox.local.world import World
from trm_envs.sandbox.runner import BlockingSandbox, BlockingSession
from trm_envs.sandbox.slots import Slots

_log = logging.getLogger(__name__)
PRELOAD = ("bisect", "collections", "decimal", "fractions", "functools", "heapq", "itertools", "json", "math",
           "operator", "random", "re", "statistics", "string", "traceback", "typing")  # fmt: skip
PROBE_LIMITS = Limits(wall_s=60, cpu_s=60, memory_bytes=1 << 30)


class LocalSandbox(BlockingSandbox):
    """Runs programs on this machine in isolation; see `Runner` for `run`, `arun` and `close`.

    Args:
        limits: default limits of a call.
        python: the interpreter inside; None takes this one if an unprivileged user can read it, else the system's.
        max_concurrent: how many calls run at once, further ones wait; None takes four a processor.
        preload: modules that every call finds imported.
        packages: what programs can import beside the standard library.
        cgroups: "auto" limits each call by control groups too where this process may make some; "off" makes none.
        require: demands on this machine, some of `demands.REQUIRABLE`; None takes those of TRM_SANDBOX_REQUIRE.

    Raises:
        SandboxUnavailable: isolation is unavailable; it gives reason and remedy. There is no fallback.
        ValueError: if an argument is not allowed.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        python: str | None = None,
        max_concurrent: int | None = None,
        preload: Sequence[str] = PRELOAD,
        packages: Packages | None = None,
        cgroups: str = "auto",
        require: Sequence[str] | None = None,
    ) -> None:
        if cgroups not in ("auto", "off"):
            raise ValueError(f"cgroups = {cgroups!r}: expected auto or off; auto takes those that can be had")
        if max_concurrent is None:
            max_concurrent = 4 * (os.cpu_count() or 1)
        if not isinstance(max_concurrent, int) or not 1 <= max_concurrent <= 1000:
            raise ValueError(f"max_concurrent = {max_concurrent!r}: expected an integer from 1 to 1000; e.g. 8")
        super().__init__(limits, ThreadPoolExecutor(max_concurrent, "trm-sandbox"))
        self.max_concurrent = max_concurrent
        self.python = mounts.find_python(python)
        self._packages = packages or Packages()
        shown = self._packages.entries
        if not package_folder.are_readable(shown):
            self._copies = package_folder.copied(self._packages)
            shown = tuple(os.path.join(self._copies.name, name) for name in os.listdir(self._copies.name))
        self._start_args = (bubblewrap.find_bubblewrap(), self.python, tuple(preload), shown)
        self._slots = Slots(max_concurrent)
        self._has_groups = cgroups == "auto"
        holds.check(demands.demanded() if require is None else require, self._groups())
        self._lock = threading.Lock()
        self._zygote: Zygote | None = None
        probe = self.run("print(6 * 7)")
        if probe.stdout != "42\n":
            self.close()
            raise SandboxUnavailable(
                bubblewrap.explain(probe.message or probe.stderr or f"status {probe.status.value}")
            )
        if self._packages.pins:
            package_folder.check_probe(self._packages, self.run(self._packages.probe, limits=PROBE_LIMITS))
        _log.info("sandbox=local: %s", "; ".join(f"{name}: {by}" for name, by in self.isolation.items()))
        scarcest = holds.rooms()[0]
        if scarcest.sessions < max_concurrent:
            _log.warning("sandbox=local: %s allow %d sessions; %s", *dataclasses.astuple(scarcest))

    @property
    def isolation(self) -> dict[str, str]:
        """Return the means of confinement, for reports."""
        return {
            "namespaces": "user, pid, mount, ipc, uts, net: one call at a time, inside bubblewrap's",
            **holds.facts(self._groups()),
            "python": self.python,
        }

    def session(self) -> "LocalSession":
        """Open a session; see `Sandbox.session`."""
        return LocalSession(self)

    def close(self) -> None:
        """Stop all calls and sessions; may be called again."""
        with self._lock:
            self._closed = True
            if self._zygote is not None:
                self._zygote.close()
                self._zygote = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _groups(self) -> Groups:
        return groups_of_this_process() if self._has_groups else no_groups()

    def _open(self) -> Call:
        return Call(self._slots, self._take, self._give_back)

    def _take(self) -> World:
        """Take a waiting supervisor; a zygote that is gone, or belongs to a parent process, is replaced.

        Raises:
            OSError: if none can be had.
            SandboxClosed: if the sandbox is closed.
        """
        for attempt in (1, 2):
            with self._lock:
                self._check_open()
                if self._zygote is None or not self._zygote.is_ours():
                    groups = self._groups()
                    process, control = bubblewrap.start(*self._start_args, not groups.hold_shares)
                    self._zygote = Zygote(process, control, self.max_concurrent, groups)
                zygote = self._zygote
            try:
                return zygote.take_world()
            except ConnectionError:
                with self._lock:
                    if self._zygote is zygote:
                        zygote.close()
                        self._zygote = None
                if attempt == 2:
                    raise
        raise AssertionError

    def _give_back(self, world: World) -> None:
        """Keep a supervisor that is done with a call or a session for another one."""
        with self._lock:
            zygote = self._zygote
        if zygote is None:
            world.close()
        else:
            zygote.give_back(world)  # if it is not the one that made it: the connection has ended, and is dropped


class LocalSession(BlockingSession):
    """A session in namespaces of its own; see `BlockingSession`. Its processes last from call to call too."""
