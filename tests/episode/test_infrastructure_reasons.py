"""Each reason of the infrastructure has a cause outside of what the model writes; the model's text is plain here."""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

import gymnasium
import pytest

from tests.episode.fakes import CHAT, END, ENDLESS, FakeEnv, FakeEnvThat, Hang, byte_tokenizer, raises, scripted
from trm_agent.episode import ChatTokens, Generation, Limits, StopReason, run_episode
from trm_envs import InfrastructureError
from trm_envs.scoring import verify
from trm_envs.scoring.pool import WorkerPool

BYTES = byte_tokenizer()
BYTE_CHAT = ChatTokens(BYTES)
CALL = '<tool_call>\n{"name": "python", "arguments": {"code": "print(1)"}}\n</tool_call>'


class FakeEngine:
    """Writes one text each turn, after what the test makes it do."""

    def __init__(self, text="ok", before=lambda: None):
        self.ids = [*BYTES.encode(text, add_special_tokens=False), BYTES.convert_tokens_to_ids(END)]
        self.before = before

    async def generate(self, prompt_ids, max_tokens):
        result = self.before()
        if asyncio.iscoroutine(result):
            await result
        return Generation(self.ids[:max_tokens], [-0.5] * len(self.ids[:max_tokens]), True)


async def played(make_env, engine=None, chat=CHAT, options=None, **limits):
    engine = engine or scripted(f"call{END}")
    return await run_episode(make_env, engine, chat, Limits(**limits), env_id="x", seed=0, options=options)


def python_math(**kwargs):
    return gymnasium.make("trm/PythonMath-v0", **kwargs)


async def raising_make():
    return await played(raises(OSError("no such device")))


async def raising_reset():
    return await played(lambda: FakeEnvThat("reset", raises(ConnectionError("the task server is gone"))))


async def service_down():
    return await played(lambda: FakeEnvThat("step", raises(InfrastructureError("the service is down"))))


async def closed_server():
    # nobody listens there
    limits = {"max_response_tokens": 4000, "tool_time_s": 20}
    return await played(lambda: python_math(sandbox="http://127.0.0.1:9"), FakeEngine(CALL), BYTE_CHAT, **limits)


async def killed_scorer():
    """The workers that compare expressions end as soon as they start, once the task is drawn."""
    broken = WorkerPool(1, (sys.executable, "-c", "raise SystemExit(9)"))
    before = verify._pools.get(os.getpid())

    def kill():
        verify._pools[os.getpid()] = broken

    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.jsonl")
        # roots are not compared without a worker
        rows.write_text(json.dumps({"question": "What is sin(60 degrees)?", "answer": r"\frac{\sqrt{3}}{2}"}))
        try:
            return await played(
                lambda: python_math(rows=str(rows), horizon=1, split="all"),
                FakeEngine(r"\boxed{\sqrt{\frac34}}", kill),
                BYTE_CHAT,
                max_response_tokens=4000,
            )
        finally:
            broken.close()
            verify._pools.pop(os.getpid())
            if before is not None:
                verify._pools[os.getpid()] = before


async def hanging_reset():
    hang = Hang()
    try:
        return await played(lambda: FakeEnvThat("reset", hang), step_timeout_s=0.1)
    finally:
        hang.let_go.set()


async def engine_error():
    return await played(FakeEnv, FakeEngine(before=raises(RuntimeError("CUDA error"))))


async def closed_engine():
    return await played(FakeEnv, FakeEngine(before=raises(ConnectionResetError("closed by the server"))))


async def hanging_engine():
    return await played(FakeEnv, FakeEngine(before=lambda: asyncio.sleep(30)), generate_timeout_s=0.05)


async def stalled_machine():
    # each turn within its deadline, all of them together beyond the episode's
    engine = FakeEngine(before=lambda: asyncio.sleep(0.1))
    return await played(lambda: FakeEnv(ENDLESS), engine, generate_timeout_s=9, episode_timeout_s=0.25)


async def short_prompt_limit():
    return await played(FakeEnv, max_prompt_tokens=4)


async def unusable_tools():
    class FakeEnvWithTools(FakeEnv):
        tool_schemas = ({"type": {1, 2}},)  # a set is not JSON

    return await played(FakeEnvWithTools)


FAULTS = {
    raising_make: StopReason.ENV_ERROR,
    raising_reset: StopReason.ENV_ERROR,
    service_down: StopReason.ENV_ERROR,
    closed_server: StopReason.ENV_ERROR,
    killed_scorer: StopReason.VERIFIER_ERROR,
    hanging_reset: StopReason.ENV_TIMEOUT,
    engine_error: StopReason.GENERATOR_ERROR,
    closed_engine: StopReason.GENERATOR_ERROR,
    hanging_engine: StopReason.GENERATOR_TIMEOUT,
    stalled_machine: StopReason.EPISODE_TIMEOUT,
    short_prompt_limit: StopReason.PROMPT_TOO_LONG,
    unusable_tools: StopReason.CHAT_ERROR,
}


def test_every_reason_has_such_a_fault():
    assert set(FAULTS.values()) == {reason for reason in StopReason if reason.is_infrastructure_failure}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_a_fault_outside_of_the_text_is_infrastructure(fault):
    episode = await fault()
    assert (episode.stop_reason, episode.reward) == (FAULTS[fault], None), (episode.error, episode.scorer_error)
    assert episode.error
    assert episode.scorer_error is None
