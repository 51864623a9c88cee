"""The subject of a check: an environment that can be made repeatedly, here and in another process."""

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium

from trm_envs import own_modules
from trm_envs.base import ToolEnv
from trm_envs.options import check_choice
from trm_envs.own_modules import load, told_of_kind

CHILD_LIMIT_S = 120.0
# Python puts the current folder first for such a program; PYTHONPATH keeps it where this process has it
CHILD = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from trm_envs.checking.subject import answer_request; answer_request()"
)
MAX_TURNS = 20_000
# some tasks of a game cannot be won, whatever is played
MOST_SEEDS = 20
NO_SOLVER = "there is no scripted solver; define solution() to have this checked"
# Turns that show an environment without a scripted solver: no call, no answer, an answer.
SILENT_TURNS = ("Let me think.", "", "<tool_call>{}</tool_call>")


class Failed(Exception):
    """A check failed; the message holds fault and remedy."""


class Skipped(Exception):
    """A check does not apply; the message says why."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """An environment with the settings of its check."""

    name: str
    """Name in messages."""
    make: Callable[..., Any]
    """Function that makes a fresh instance from options."""
    address: str | None
    """ "module:name" of the function by which a second process makes an instance; None if it cannot be imported."""
    defaults: Mapping[str, Any]
    """Options of every instance."""
    seed: int = 7
    """Seed of the tasks and of the outputs."""
    deadline_s: float = 10.0
    """Largest number of seconds that one step may take."""
    num_fuzz: int = 300
    """Number of model outputs in each protocol."""
    fuzz_budget_s: float = 60.0
    """Seconds for slow steps in each protocol; after that, calls and answers are only parsed."""

    @contextlib.contextmanager
    def open(self, **options: Any) -> Iterator[ToolEnv]:
        """Make an instance, and close it in the end."""
        env = self.make(**{**self.defaults, **options})
        try:
            yield env.unwrapped
        finally:
            env.close()

    def protocols(self) -> list[str]:
        """Return the names of the protocols that the environment supports."""
        with self.open() as env:
            return supported_protocols(env)

    def has_solver(self) -> bool:
        """Return True if there is a scripted solver."""
        return not self.lacks_solver()

    def lacks_solver(self) -> str:
        """Return why there is no scripted solver for the seed's task; "" if there is one."""
        with self.open() as env:
            env.reset(seed=self.seed)
            try:
                env.solution()
            except NotImplementedError as error:
                return _told_of_none(env, error)
        return ""

    def at_solved_task(self) -> "Subject":
        """Return the subject at the first of 20 seeds whose task has a scripted solver.

        Raises:
            Skipped: if there is none; with the reason.
        """
        if not (reason := self.lacks_solver()):
            return self
        with self.open() as env:
            is_defined = type(env).solution is not ToolEnv.solution
        for seed in range(self.seed + 1, self.seed + MOST_SEEDS) if is_defined else ():
            other = dataclasses.replace(self, seed=seed)
            if other.has_solver():
                return other
        raise Skipped(f"{reason} (nor for {MOST_SEEDS - 1} other seeds)" if is_defined else reason)


def _told_of_none(env: ToolEnv, error: NotImplementedError) -> str:
    """Return why there is no solver, with the place where it is defined and says so: it may be a mistake in it."""
    if type(env).solution is ToolEnv.solution:
        return str(error) or NO_SOLVER
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    return f"no scripted solver for this task: NotImplementedError at {place}{f': {error}' if str(error) else ''}"


def resolve(env: str | Callable[..., Any], options: Mapping[str, Any], **settings: Any) -> Subject:
    """Return the subject of an id, a "module:id", or a class or function that makes the environment.

    Args:
        env: the environment.
        options: options of every instance.
        **settings: the other fields of `Subject`.

    Raises:
        ValueError: if there is no such id, module or environment, or it is not a `ToolEnv`; with the remedy.
    """
    if isinstance(env, str):
        env_id = _import_registering(env)
        spec = gymnasium.spec(env_id)
        entry: Any = spec.entry_point
        address = entry if isinstance(entry, str) else _address(entry)
        subject = Subject(env_id, functools.partial(gymnasium.make, env_id), address, {**spec.kwargs, **options})
    else:
        subject = Subject(getattr(env, "__qualname__", repr(env)), env, _address(env), dict(options))
    subject = dataclasses.replace(subject, **settings)
    try:
        made = subject.make(**subject.defaults)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{subject.name} cannot be made: {type(error).__name__}: {error}") from error
    kind = type(getattr(made, "unwrapped", made))
    if not issubclass(kind, ToolEnv):
        raise ValueError(f"{subject.name} {told_of_kind(kind)}")
    made.close()
    return subject


def supported_protocols(env: ToolEnv) -> list[str]:
    """Return the names of the protocols in which all tools of an environment can be called."""
    from trm_envs.protocols import PROTOCOLS

    names = []
    for name, protocol in PROTOCOLS.items():
        with contextlib.suppress(ValueError):
            protocol.check_tools(env._tools)
            names.append(name)
    return names


def transcript(env: ToolEnv, seed: int, options: Mapping[str, Any] | None = None) -> list[Any]:
    """Return everything that an episode shows, played by the solver or else by a policy that knows nothing."""
    return list(episode(env, seed, options))


def episode(env: ToolEnv, seed: int, options: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Play an episode and yield its observations, one turn after the other, without timings.

    Raises:
        Failed: if it does not end.
    """
    observation, info = env.reset(seed=seed, options=dict(options or {}))
    yield [env.system_prompt, env.tool_schemas, observation, info]
    silent = iter((*SILENT_TURNS, *[env.answer("0")] * 100))
    for _ in range(MAX_TURNS):
        try:
            action = env.solution()
        except NotImplementedError:
            if (action := next(silent, "")) == "":
                return
        observation, reward, terminated, truncated, info = env.step(action)
        info.pop("tool_time_s", None)
        yield [action, observation, reward, terminated, truncated, info]
        if terminated or truncated:
            return
    raise Failed(f"the solver's episode has not ended after {MAX_TURNS} turns; let solution() give the answer")


def transcript_elsewhere(subject: Subject, seed: int, options: Mapping[str, Any]) -> str:
    """Return the JSON of `transcript` from a fresh process, with another hash seed.

    Raises:
        Skipped: if a process cannot import the environment's maker.
        Failed: if it fails there.
    """
    if subject.address is None:
        raise Skipped("what makes the environment cannot be imported by name; define it at the top of a module")
    request = {"address": subject.address, "defaults": dict(subject.defaults), "seed": seed, "options": dict(options)}
    child_env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONHASHSEED": "4242",
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(request), capture_output=True, text=True, env=child_env, timeout=CHILD_LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"in a fresh process it failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.strip().splitlines()[-1]


def answer_request() -> None:
    """Read a request from the standard input and print the JSON of its transcript: the child's whole program."""
    request = json.load(sys.stdin)
    make = load(request["address"])
    env = make(**request["defaults"]).unwrapped
    print(json.dumps(transcript(env, request["seed"], request["options"])), flush=True)
    env.close()


def import_module(name: str) -> None:
    """Import a user's module.

    Raises:
        ValueError: if that fails; with the reason.
    """
    try:
        own_modules.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name}: cannot import {error.name!r}; install its package, or set PYTHONPATH") from error
    except Exception as error:
        raise ValueError(f"{name}: cannot be imported: {type(error).__name__}: {error}") from error


def _import_registering(env: str) -> str:
    """Import the module of "module:id", and return the id."""
    module, _, env_id = env.rpartition(":")
    if module:
        import_module(module)
    known = [name for name, spec in gymnasium.registry.items() if _may_be_ours(spec)]
    if module and env_id not in gymnasium.registry:
        raise ValueError(f"{env_id!r} is not registered: {own_modules.told_of_unknown(env_id, module)}")
    if env_id not in gymnasium.registry:
        check_choice("environment", env_id, sorted(known))
    return env_id


def _may_be_ours(spec: Any) -> bool:
    """Return whether a registered environment is not one of Gymnasium's own."""
    entry = spec.entry_point
    module = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
    return bool(module) and not str(module).startswith("gymnasium")


def _address(make: Any) -> str | None:
    module, name = getattr(make, "__module__", None), getattr(make, "__qualname__", "<")
    return None if module in (None, "__main__") or "<" in name else f"{module}:{name}"
