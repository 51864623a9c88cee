"""Where the ranks of the trainer are, told by a signal where they no longer answer."""

import faulthandler
import gc
import inspect
import os
import signal
import time
import traceback
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from types import CoroutineType
from typing import Any

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SIGNAL = signal.SIGUSR2
LISTEN_S = 60.0
"""Seconds in which all ranks answer that they listen."""
ANSWER_S = 3.0
"""Seconds in which a rank that does nothing else answers a call."""
STACKS_S = 3.0
"""Seconds in which a process writes its stacks."""
NODE_S = 20.0
"""Seconds for a process of Ray's on another machine to start, and to ask there."""
_LOOK_S = 0.05
_CLOCK_S = 60.0
_RAY = os.path.join(os.path.dirname(ray.__file__), "")
_ENDED = "(the process has ended)"


@dataclass(frozen=True)
class Listening:
    """A process whose threads write where they are when a signal comes, whatever they do."""

    node: str
    """Ray's id of its machine."""
    pid: int
    created: float
    """Time of its start, which tells it from a later process of the same number."""
    descriptor: int
    """Its file in memory, for the stacks."""


@dataclass(frozen=True)
class Found:
    """What the ranks were at."""

    answered: tuple[str, ...]
    """Ranks that do nothing any more."""
    silent: tuple[str, ...]
    """Ranks that are at work, wait, or have ended."""
    stacks: str
    """Stacks of all."""


def listen(_: Any) -> Listening:
    """Let this process write its stacks on a signal; runs in a rank.

    No thread of Python has to run for it, so a rank that waits in a collective and holds the interpreter writes too.
    """
    descriptor = os.memfd_create("trm-stacks")
    faulthandler.register(SIGNAL, file=descriptor, all_threads=True)
    return Listening(_node(), os.getpid(), psutil.Process().create_time(), descriptor)


def waiting(_: Any) -> list[str]:
    """Return where each coroutine that Ray has called waits; runs in a rank that answers, though its phase may go on.

    Ray's task tells nothing of it, so all coroutines that wait are looked for. Those of libraries are in no phase.
    """
    found = [each for each in gc.get_objects() if type(each) is CoroutineType and _is_suspended(each)]
    inner = {id(each.cr_await) for each in found}
    stacks = [_chain(each) for each in found if id(each) not in inner]
    called = [stack for stack in stacks if stack and _is_rays(stack[0]) and not _is_rays(stack[-1])]
    return ["".join(traceback.format_list(stack)) for stack in called]


class Ranks:
    """The ranks of a trainer, or the workers of rollout servers that take its weights.

    A process listens for one object of this class.

    Args:
        handles: their actors of Ray, in the order of the ranks.
        name: of each, with `{}` for its place.

    Raises:
        GetTimeoutError: one does not answer within `LISTEN_S`.
    """

    def __init__(self, handles: Sequence[Any], name: str = "{}") -> None:
        self._handles = list(handles)
        self._names = [name.format(place) for place in range(len(self._handles))]
        calls = [handle.__ray_call__.remote(listen) for handle in self._handles]
        self._listening: list[Listening] = ray.get(calls, timeout=LISTEN_S)
        self._node = _node()

    def __len__(self) -> int:
        return len(self._handles)

    def __add__(self, others: "Ranks") -> "Ranks":
        """Return these and others together."""
        both = copy(self)
        both._handles = self._handles + others._handles
        both._names = self._names + others._names
        both._listening = self._listening + others._listening
        return both

    def where(self) -> Found:
        """Ask each rank whether it has come to the end of what it was asked, and take the stacks of all.

        Returns within `ANSWER_S`, `STACKS_S` for each rank, and `NODE_S` for each of the other machines.
        """
        calls = [handle.__ray_call__.remote(waiting) for handle in self._handles]
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=ANSWER_S)
        told = [_answer(call) if call in set(ready) else "" for call in calls]
        stacks = self._stacks()
        each = list(zip(self._names, told, strict=True))
        answered = tuple(name for name, answer in each if answer is None)
        silent = tuple(name for name, answer in each if answer is not None)
        parts = []
        for (name, answer), listening, stack in zip(each, self._listening, stacks, strict=True):
            state = "has answered" if answer is None else "has not answered"
            parts.append(f"rank {name}, pid {listening.pid}, {state}\n{answer or ''}{stack}")
        return Found(answered, silent, "\n".join(parts))

    def _stacks(self) -> list[str]:
        """Return the stacks of each rank."""
        found = dict.fromkeys(self._listening, "")
        nodes = dict.fromkeys(each.node for each in self._listening)
        # the other machines work meanwhile
        calls = {node: _stacks_on(node, self._of(node)) for node in nodes if node != self._node}
        found |= dict(zip(self._of(self._node), stacks_of(self._of(self._node)), strict=True))
        for node, call in calls.items():
            try:
                texts = ray.get(call, timeout=NODE_S + STACKS_S * len(self._of(node)))
            except RayError as error:
                kind = "no answer in time" if isinstance(error, GetTimeoutError) else type(error).__name__
                texts = [f"(no stacks of machine {node}: {kind})"] * len(self._of(node))
            found |= dict(zip(self._of(node), texts, strict=True))
        return [found[each] for each in self._listening]

    def _of(self, node: str) -> list[Listening]:
        return [each for each in self._listening if each.node == node]


def listening_ranks(handles: Sequence[Any], name: str = "{}") -> Ranks | None:
    """Return the ranks; None, after a line that says so, where they cannot be made to tell where they are.

    Args:
        handles, name: see `Ranks`.
    """
    try:
        return Ranks(handles, name)
    except (GetTimeoutError, RayTaskError) as error:
        names = ", ".join(name.format(place) for place in range(len(handles)))
        print(f"no stacks of ranks {names} will be told if one hangs: {type(error).__name__}: {error}", flush=True)
        return None


def ranks_of(groups: Iterable[Any]) -> list[Any]:
    """Return the actors of verl's worker groups, or of its replicas of a server, each once: they may share them."""
    return list(dict.fromkeys(handle for group in groups if group is not None for handle in group.workers))


def stacks_of(listening: Sequence[Listening]) -> list[str]:
    """Return the stacks of processes of this machine; what does not come is told in their place."""
    return [_stacks(each) for each in listening]


def _stacks(listening: Listening) -> str:
    try:
        process = psutil.Process(listening.pid)
        # psutil counts from the start of the machine, which moves with its clock
        if abs(process.create_time() - listening.created) > _CLOCK_S:
            return _ENDED
        file = f"/proc/{listening.pid}/fd/{listening.descriptor}"
        before = os.stat(file).st_size
        process.send_signal(SIGNAL)
        return _written(file, before) or "(the process takes no signals)"
    except (psutil.NoSuchProcess, FileNotFoundError):
        return _ENDED
    except (psutil.Error, OSError) as error:
        return f"(no stacks: {error})"


def _written(file: str, start: int) -> str:
    """Return what comes behind a place of a file, as soon as nothing more comes."""
    until, size = time.monotonic() + STACKS_S, start
    while time.monotonic() < until:
        time.sleep(_LOOK_S)
        now = os.stat(file).st_size
        if now == size and size > start:
            break
        size = now
    with open(file, "rb") as stream:
        stream.seek(start)
        return stream.read().decode("utf-8", "replace")


def _stacks_on(node: str, listening: Sequence[Listening]) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(stacks_of).options(num_cpus=0, scheduling_strategy=strategy).remote(listening)


def _answer(call: Any) -> str | None:
    """Return what a rank says that keeps it from its answer; None for nothing."""
    try:
        stacks = ray.get(call)
    except RayError as error:
        return f"{type(error).__name__}: {error}\n"
    return "".join(f"a coroutine waits:\n{stack}" for stack in stacks) or None


def _chain(coroutine: Any) -> list[traceback.FrameSummary]:
    """Return the frames of a coroutine that waits, the innermost last."""
    frames: list[traceback.FrameSummary] = []
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        frames += traceback.StackSummary.extract([(frame, frame.f_lineno)])
        coroutine = coroutine.cr_await
    return frames


def _is_rays(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_RAY)


def _is_suspended(coroutine: Any) -> bool:
    return inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED


def _node() -> str:
    node: str = ray.get_runtime_context().get_node_id()
    return node
