"""Real vLLM on a small model with random weights: its tokens, its log-probs, its end; and vLLM's own server."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from trm_agent.evaluate.checkpoints.source import Checkpoint, parse_checkpoint
from trm_agent.evaluate.engines import on_cpu
from trm_agent.evaluate.engines.opening import Engine, Sampling, open_engine
from trm_agent.evaluate.engines.vllm_turns import read
from trm_agent.evaluate.prepare import with_folder
from trm_agent.models.nano import NanoSpec, make_model, make_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SPEC = NanoSpec(hidden_size=64, num_layers=1, num_heads=2, num_kv_heads=1, mlp_size=64)
NUM_PROMPTS = 24
SERVER_TIMEOUT_S = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "random"
    tokenizer = make_tokenizer(SPEC)
    make_model(SPEC, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def served(model: Path) -> Checkpoint:
    return with_folder(parse_checkpoint(str(model)))


def engine_of(model: Path, log: Path | None = None, **sampling: Any) -> Any:
    return open_engine(served(model), Sampling(**sampling), max_model_len=2048, max_num_seqs=NUM_PROMPTS, log_file=log)


def prompt(index: int) -> list[int]:
    """Between 4 and 900 tokens: together they are more than one batch holds."""
    return [3 + (index * 7 + position) % 200 for position in range(4 + index * 39)]


async def play(engine: Engine, at_once: int, max_tokens: int = 12) -> list[Any]:
    """Two turns for each prompt, the second after the first's tokens."""
    slots = asyncio.Semaphore(at_once)

    async def one(index: int) -> Any:
        async with slots:
            generator = engine.generator(index)
            first = await generator.generate(prompt(index), max_tokens)
            second = await generator.generate([*prompt(index), *first.token_ids, 5, 6], max_tokens)
            return first, second

    return await asyncio.gather(*(one(index) for index in range(NUM_PROMPTS)))


def tokens(played: list[Any]) -> list[list[list[int]]]:
    return [[turn.token_ids for turn in turns] for turns in played]


def vllm_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "vllm"]


async def test_log_probs_are_the_models_and_greedy_takes_the_likeliest(model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model)
    for temperature in (1.0, 0.0):
        async with engine_of(model, tmp_path / "log.txt", temperature=temperature) as engine:
            generation = await engine.generator(1).generate(prompt(2), 20)
            given = await read(engine, prompt(20))
        ids = torch.tensor([[*prompt(2), *generation.token_ids]])
        with torch.no_grad():
            logits = network(ids).logits[0, len(prompt(2)) - 1 : -1]
        sampled = torch.tensor(generation.token_ids)
        expected = logits.log_softmax(-1).gather(1, sampled[:, None])[:, 0]
        # float32 in another order
        torch.testing.assert_close(torch.tensor(generation.log_probs), expected, atol=1e-4, rtol=0)
        assert bool((logits.argmax(-1) == sampled).all()) == (temperature == 0.0)
        assert generation.finished == (generation.token_ids[-1] in engine.chat.stop_token_ids)
        # of a prompt's tokens at temperature 1, whatever the sampling's
        ids = torch.tensor([prompt(20)])
        with torch.no_grad():
            expected = network(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(given), expected, atol=1e-4, rtol=0)
    assert "vllm" in (tmp_path / "log.txt").read_text()


async def test_seeds_decide_the_tokens_whatever_else_is_in_the_batch(model: Path) -> None:
    async with engine_of(model, seed=1) as engine:
        together = tokens(await play(engine, NUM_PROMPTS))
        # the prefixes are cached now
        assert tokens(await play(engine, 2)) == together
    async with engine_of(model, seed=2) as engine:
        assert tokens(await play(engine, NUM_PROMPTS)) != together
    async with engine_of(model, seed=1) as engine:
        assert tokens(await play(engine, 5)) == together


async def test_greedy_decoding_is_the_same_for_every_seed(model: Path) -> None:
    async with engine_of(model, temperature=0.0, seed=1) as engine:
        together = tokens(await play(engine, NUM_PROMPTS))
    async with engine_of(model, temperature=0.0, seed=2) as engine:
        assert tokens(await play(engine, 3)) == together


async def test_a_cancelled_turn_leaves_the_others_and_a_refused_one_fails_alone(model: Path) -> None:
    async with engine_of(model) as engine:
        expected = (await engine.generator(1).generate(prompt(1), 12)).token_ids
        cancelled = asyncio.create_task(engine.generator(2).generate(prompt(2), 1500))
        await asyncio.sleep(0.2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises(ValueError, match="2048"):
            await engine.generator(3).generate([5] * 3000, 4)
        assert (await engine.generator(1).generate(prompt(1), 12)).token_ids == expected


async def test_the_engine_ends_with_its_block_and_nothing_is_left(model: Path, capfd: pytest.CaptureFixture) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    async def fail() -> None:
        async with engine_of(model, model / "log.txt") as engine:
            waiting = asyncio.create_task(engine.generator(1).generate(prompt(1), 1500))
            await asyncio.sleep(0.1)
            assert vllm_threads() == ["vllm"]
            try:
                raise KeyError("planted")
            finally:
                failed.append(waiting)

    failed: list[asyncio.Task] = []
    with pytest.raises(KeyError, match="planted"):
        await fail()
    with pytest.raises(RuntimeError, match="the engine was closed"):
        await failed[0]
    assert vllm_threads() == []
    task = asyncio.create_task(fail())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert vllm_threads() == []
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    shown = capfd.readouterr()
    assert "vllm" not in (shown.out + shown.err).lower()


async def test_a_context_beyond_the_models_is_refused_before_vllm_starts(model: Path) -> None:
    with pytest.raises(ValueError, match=r"contexts of 40000 tokens, the model is made for 32768"):
        async with open_engine(served(model), Sampling(), max_model_len=40000, max_num_seqs=4):
            pass


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own OpenAI-compatible server in a process group of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = f"--host 127.0.0.1 --port {port} --dtype float32 --enforce-eager --max-model-len 2048 --max-num-seqs 24"
    arguments += " --no-enable-chunked-prefill --max-num-batched-tokens 4096 --generation-config vllm"
    arguments += " --served-model-name random"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), *arguments.split()]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environment = {**os.environ, **on_cpu.ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        until = time.monotonic() + SERVER_TIMEOUT_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def test_vllms_own_server_gives_the_same_tokens_as_the_engine(model: Path, server: str) -> None:
    checkpoint = parse_checkpoint(server, tokenizer=str(model))
    assert checkpoint.model == "random"
    for temperature in (0.0, 1.0):
        sampling = Sampling(temperature=temperature, seed=3)
        async with open_engine(checkpoint, sampling, max_model_len=2048, max_num_seqs=NUM_PROMPTS) as engine:
            served = await play(engine, NUM_PROMPTS)
        async with engine_of(model, temperature=temperature, seed=3) as engine:
            here = await play(engine, NUM_PROMPTS)
        assert tokens(served) == tokens(here)
        for ours, theirs in zip(here, served, strict=True):
            for mine, other in zip(ours, theirs, strict=True):
                assert other.log_probs == pytest.approx(mine.log_probs, abs=1e-4)
                assert other.finished == mine.finished
                assert other.extra == {}


async def test_the_layers_are_those_of_a_runs_engine_and_so_are_the_threads(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from vllm.model_executor.layers.layernorm import RMSNorm
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    from trm_agent.verl_plugin.cpu.patches import is_patched

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    here, asked, set_threads = torch.get_num_threads(), [], on_cpu.set_threads

    def recorded(number: int) -> None:
        asked.append((number, threading.current_thread().name))
        set_threads(number)

    monkeypatch.setattr(on_cpu, "set_threads", recorded)
    async with engine_of(model) as engine:
        alone, together = await play(engine, 1), await play(engine, NUM_PROMPTS)
    # a small model's, and those of the engine's thread alone
    assert asked == [(1, "vllm")]
    assert torch.get_num_threads() == here
    assert is_patched(RMSNorm.forward_cpu)
    # vLLM's own server draws the same tokens
    assert not is_patched(TopKTopPSampler.forward_cpu)
    # not a bit depends on what else is in the batch
    for mine, other in zip(alone, together, strict=True):
        assert [turn.log_probs for turn in mine] == [turn.log_probs for turn in other]
