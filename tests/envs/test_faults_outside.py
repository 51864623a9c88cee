"""Faults outside of the model's text, each of which is infrastructure."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.envs.env_support import call, make, raising
from tests.envs.fusion_support import running_server
from tests.envs.sandbox_support import descendants_of, needs_bubblewrap
from trm_envs import InfrastructureError, VerifierError
from trm_envs.sandbox import LocalSandbox, SandboxUnavailable, close_shared, shared_sandbox
from trm_envs.scoring.pool import WorkerPool
from trm_envs.tasks import python_math, reasoning_gym


@pytest.fixture
def own_sandbox() -> Iterator[None]:
    close_shared()
    yield
    close_shared()


@needs_bubblewrap
def test_a_zygote_that_dies_in_a_call_is_infrastructure(own_sandbox: None) -> None:
    env = make("trm/PythonMath-v0", tool_timeout_s=20)
    env.reset(seed=0)
    assert env.step(call("python", code="x = 1"))[0] == "(no output)"
    sandbox: Any = shared_sandbox("local")
    process = sandbox._zygote._process

    def kill() -> None:
        os.kill(descendants_of(process.pid)[0], signal.SIGKILL)

    with pytest.raises(InfrastructureError, match="the sandbox failed"):
        asyncio.run(_both(lambda: env.step(call("python", code="import time; time.sleep(15)")), kill))
    process.wait(5)
    env.reset(seed=0)  # the next zygote serves
    assert env.step(call("python", code="print(2)"))[0] == "2"
    env.close()


async def _both(step: Callable[[], Any], fault: Callable[[], None]) -> None:
    """Step in a thread, and cause a fault meanwhile."""
    stepping = asyncio.create_task(asyncio.to_thread(step))
    await asyncio.sleep(0.4)
    fault()
    await stepping


@needs_bubblewrap
def test_a_server_that_closes_is_infrastructure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trm_envs.sandbox.fusion.poster.FIRST_PAUSE_S", 0.01)
    with LocalSandbox(max_concurrent=2) as local:
        with running_server(local) as address:
            env = make("trm/PythonMath-v0", sandbox=address)
            tests = make("trm/CodeTests-v0", sandbox=address, horizon=1)
            env.reset(seed=0)
            tests.reset(seed=0)
            assert env.step(call("python", code="x = 1"))[0] == "(no output)"
            tests.step(tests.solution())
        with pytest.raises(InfrastructureError, match="the sandbox failed"):
            env.step(call("python", code="print(x)"))
        with pytest.raises(VerifierError, match="the sandbox failed"):
            tests.step(tests.answer("done"))


def test_a_closed_sandbox_is_infrastructure_also_in_a_tool(own_sandbox: None) -> None:
    env = make("trm/PythonMath-v0", sandbox="unsafe")
    env.reset(seed=0)
    shared_sandbox("unsafe").close()
    with pytest.raises(InfrastructureError, match="sandbox is closed"):
        env.step(call("python", code="print(1)"))
    close_shared()
    env.reset(seed=0)
    assert env.step(call("python", code="print(1)"))[0] == "1"
    shared_sandbox("unsafe").close()  # under an open session
    with pytest.raises(InfrastructureError, match="session is closed"):
        env.step(call("python", code="print(1)"))


def test_a_sandbox_that_cannot_be_had_is_infrastructure(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (SandboxUnavailable("no bwrap"), ValueError("packages: numpy is not installed"), OSError("no memory")):
        monkeypatch.setattr("trm_envs.python_tool.shared_sandbox", lambda *args, error=error: raising(error)(""))
        env = make("trm/PythonMath-v0")
        env.reset(seed=0)
        with pytest.raises(InfrastructureError, match=r"no bwrap|no sandbox: "):
            env.step(call("python", code="print(1)"))


def test_workers_that_are_killed_again_and_again_are_infrastructure(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import json, os, sys\nprint('{}', flush=True)\nfor line in sys.stdin:\n    request = json.loads(line)\n"
        "    if request['operation'] == 'score': os.kill(os.getpid(), 9)\n"
        "    print(json.dumps({'question': 'q', 'answer': 'own'}), flush=True)\n"
    )
    pool = WorkerPool(1, (sys.executable, "-c", program))
    monkeypatch.setattr(reasoning_gym, "_pools", {os.getpid(): pool})
    env = make("trm/ReasoningGym-v0", horizon=1, split="all")
    env.reset(seed=0)
    with pytest.raises(VerifierError, match="chain_sum: the worker ended with exit code -9"):
        env.step(env.answer("1"))
    env.reset(seed=0)
    pool.close()
    with pytest.raises(InfrastructureError, match="workers"):
        env.step(env.answer("1"))


def test_closed_math_workers_are_infrastructure(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("trm/PythonMath-v0", split="all")
    env.reset(seed=0)
    env._story, env._row = None, type("Row", (), {"tolerance": None})()  # type: ignore[attr-defined]
    monkeypatch.setattr(python_math, "score_math", raising(RuntimeError("the worker pool is closed")))
    with pytest.raises(VerifierError, match="worker pool is closed"):
        env.step(env.answer("x^2"))
    env.reset(seed=0)
    env._story, env._row = None, type("Row", (), {"tolerance": None})()  # type: ignore[attr-defined]
    monkeypatch.setattr(python_math, "score_math", raising(RecursionError("deep")))
    assert "scorer_error" in env.step(env.answer("x^2"))[4]
