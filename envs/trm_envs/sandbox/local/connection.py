"""The host's side of a zygote, and of the calls that its supervisors carry out."""

import contextlib
import os
import socket
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Callable

from trm_envs.sandbox.interface import Result, SandboxClosed, Status
from trm_envs.sandbox.local.cgroups import Groups
from trm_envs.sandbox.local.descriptors import known
from trm_envs.sandbox.local.line import Refused
from trm_envs.sandbox.local.world import GRACE_S, World
from trm_envs.sandbox.request import Request
from trm_envs.sandbox.slots import Slots
from trm_envs.tool_time import waiting

ENOUGH_IDLE = 2
"""Number of supervisors cleaning up after a call at which the next call waits for the first of them."""


class Zygote:
    """A running zygote.

    Args:
        process: bubblewrap's process.
        control: the socket over which supervisors are asked for.
        num_warm: how many used supervisors take turns; those beyond them end by themselves after a while.
        groups: the control groups of this process.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes]", control: socket.socket, num_warm: int, groups: Groups
    ) -> None:
        self.control = control
        self._process = process
        self._owner = os.getpid()
        self._num_warm = num_warm
        self._groups = groups
        self._made: weakref.WeakSet[World] = weakref.WeakSet()
        self._idle: deque[World] = deque()
        self._lock = threading.Lock()
        known.add(self)

    def is_ours(self) -> bool:
        """Return True if it runs and this process started it, not a parent that forked us."""
        return self._owner == os.getpid() and self._process.poll() is None

    def take_world(self) -> World:
        """Return a supervisor that waits for an order: a used one, else a new one.

        Raises:
            ConnectionError: if the zygote is gone.
            OSError: if it could make none.
        """
        if (used := self._take_used()) is not None:
            return used
        message, fds, _, _ = socket.recv_fds(self.control, 1000, 1)
        if not message:
            raise ConnectionResetError("the zygote is gone")
        with contextlib.suppress(ConnectionError):
            self.control.send(b"taken")
        if not fds:
            raise OSError(message.decode())
        world = World(socket.socket(fileno=fds[0]), self._groups)
        self._made.add(world)
        return world

    def give_back(self, world: World) -> None:
        """Keep a supervisor that has answered; it says itself whether it serves another call."""
        with self._lock:
            self._idle.append(world)

    def _take_used(self) -> World | None:
        """Return a supervisor that is ready for another call; None if a new one is quicker."""
        while True:
            with self._lock:
                while self._idle and self._idle[0].has_ended():
                    self._idle.popleft().close()
                if not self._idle:
                    return None
                is_worth_waiting = len(self._idle) >= ENOUGH_IDLE  # else ever more would be made while these clean up
                index = max(0, len(self._idle) - 1 - self._num_warm)
                world = self._idle[index]
                del self._idle[index]
            try:
                if world.is_ready(GRACE_S if is_worth_waiting else 0):
                    return world
            except BlockingIOError:
                with self._lock:
                    self._idle.append(world)
                return None
            world.close()

    def close(self) -> None:
        """End it and, by its PID namespace, everything in it."""
        is_owner = self._owner == os.getpid()
        with self._lock:
            while self._idle:
                self._idle.pop().close()
        if is_owner:
            for world in list(self._made):
                world.thaw()  # in version 1 nobody can kill what is frozen
            with contextlib.suppress(OSError):
                self.control.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits on it
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self.control.close()  # last, for the sake of that thread
        if is_owner:
            self._groups.close()

    def forget(self) -> None:
        """Close the descriptors that lead there and leave it alone, as a child of the process that owns it."""
        self.control.close()


class Call:
    """A call, or the calls of a session; a supervisor is taken at the first question.

    Args:
        slots: the places of the sandbox, one taken while a question is under way.
        take: gives a supervisor.
        give_back: takes one that is done with this call or session.
    """

    def __init__(self, slots: Slots, take: Callable[[], World], give_back: Callable[[World], None]) -> None:
        self._slots = slots
        self._take = take
        self._give_back = give_back
        self._turn = threading.Lock()
        self._world: World | None = None
        self._lock = threading.Lock()
        self._is_asking = False
        self._num_aborts = 0
        self._closed = False

    def ask(self, request: Request) -> Result:
        """Carry a request out; see `Work.ask`."""
        num_aborts = self._num_aborts
        with self._turn, self._slots:
            while True:
                with contextlib.suppress(Refused):
                    return self._ask(request, num_aborts)

    def _ask(self, request: Request, num_aborts: int) -> Result:
        try:
            world = self._taken(num_aborts)
        except OSError as error:
            return Result(Status.SANDBOX_ERROR, state_lost=request.session, message=f"{error}")
        is_sound = False
        try:
            result = world.ask(request)
            is_sound = world.is_sound
            return result
        except (OSError, EOFError, ValueError, KeyError) as error:
            message = f"{type(error).__name__}: {error}"
            return Result(Status.SANDBOX_ERROR, state_lost=request.session, message=message)
        finally:
            with self._lock:
                self._is_asking = False
                is_sound = is_sound and self._world is world  # else somebody has hung up meanwhile
                is_kept = is_sound and request.session
                if not is_kept:
                    self._world = None
            if not is_sound:
                world.close()
            elif not is_kept:
                self._give_back(world)

    def abort(self) -> None:
        """Hang up, also on what waits for a place; the kernel ends every process. A later question starts afresh."""
        with self._lock:
            self._num_aborts += 1
            world, self._world = self._world, None
            if world is not None:
                world.hang_up() if self._is_asking else world.close()

    def close(self) -> None:
        """End the session, or hang up on a question that is not answered; for good."""
        self._closed = True
        with self._lock:
            world, self._world = self._world, None
            if world is None:
                return
            if self._is_asking:
                world.hang_up()
                return
        if world.end_session():
            self._give_back(world)
        else:
            world.close()

    def _taken(self, num_aborts: int) -> World:
        with self._lock:
            self._check_wanted(num_aborts)
            world = self._world
            self._is_asking = world is not None
        if world is not None:
            return world
        with waiting():
            world = self._take()  # without the lock: whoever hangs up must not wait for it
        try:
            with self._lock:
                self._check_wanted(num_aborts)
                self._world, self._is_asking = world, True
        except BaseException:
            world.close()
            raise
        return world

    def _check_wanted(self, num_aborts: int) -> None:
        if self._closed:
            raise SandboxClosed("the session is closed; open a new one with session()")
        if self._num_aborts != num_aborts:
            raise InterruptedError("stopped while it waited for a place")
