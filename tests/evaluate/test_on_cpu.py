"""What vLLM gets without a GPU: room for keys and values, threads; no engine starts."""

import json
import os
from pathlib import Path

import pytest
import torch

from trm_agent.evaluate.engines import on_cpu
from trm_agent.models.smollm2 import SHAPE
from trm_agent.runs import fit_cpu_engine

GIB = 1 << 30
SETTINGS = {"max_model_len": 1000, "max_num_seqs": 4, "dtype": None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    return tmp_path


def cache(folder: Path, **changed: object) -> int:
    return on_cpu.cache_of(folder, {**SETTINGS, **changed}).num_bytes


def test_the_cache_holds_all_sequences_in_whole_blocks_with_tokens_to_spare(folder, monkeypatch):
    monkeypatch.setattr(fit_cpu_engine, "free_bytes", lambda: 100 * GIB)
    # keys and values of 30 layers, 3 heads of 64, 4 bytes each: 46,080 a token; 1,000 tokens are 32 blocks of 32
    assert cache(folder) == (4 * 1024 + 4096) * 46_080
    assert cache(folder, dtype="bfloat16") == (4 * 1024 + 4096) * 23_040
    # 1,100 tokens are 9 blocks of 128
    assert cache(folder, block_size=128, max_num_seqs=8, max_model_len=1100) == (8 * 1152 + 4096) * 46_080


def test_the_cache_leaves_memory_to_others_and_is_a_gib_where_a_model_does_not_state_its_sizes(folder, monkeypatch):
    monkeypatch.setattr(fit_cpu_engine, "free_bytes", lambda: GIB)
    assert cache(folder, max_num_seqs=64) == GIB
    # 2^30 / 46,080 = 23,301 tokens, of which 4,096 are to spare: 18 sequences of 1,024
    assert on_cpu.cache_of(folder, {**SETTINGS, "max_num_seqs": 64}).sequences == 18
    assert on_cpu.cache_of(folder, SETTINGS).sequences == 4
    assert on_cpu.cache_of(folder, {**SETTINGS, "max_model_len": 40_000}).sequences == 1
    # three times as much, as the user says: 69,905 tokens
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    assert on_cpu.cache_of(folder, {**SETTINGS, "max_num_seqs": 64}).sequences == 64
    assert on_cpu.cache_of(folder, {**SETTINGS, "max_num_seqs": 65}).sequences == 64
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    (folder / "config.json").write_text("{}")
    assert cache(folder) == GIB
    assert on_cpu.cache_of(folder, {**SETTINGS, "max_num_seqs": 64}).sequences == 64


def test_a_prompt_is_read_in_one_piece():
    room = on_cpu.Cache(7, 1)
    assert on_cpu.arguments(SETTINGS, room)["max_num_batched_tokens"] == 4096
    long = on_cpu.arguments({**SETTINGS, "max_model_len": 9000}, room)
    assert (long["max_num_batched_tokens"], long["enable_chunked_prefill"]) == (9000, False)
    assert long["kv_cache_memory_bytes"] == 7


def test_a_small_model_has_one_thread_and_a_larger_one_all_cores_unless_the_user_says(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    small = tmp_path / "small"
    small.mkdir()
    (small / "config.json").write_text(json.dumps({**SHAPE, "num_hidden_layers": 1, "vocab_size": 100}))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert (on_cpu.threads_of(small), on_cpu.threads_of(folder)) == (1, 3)
    assert on_cpu.fitting_threads(folder, must_repeat=True) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert on_cpu.threads_of(folder) is None


def test_threads_are_set_although_an_engine_has_replaced_torchs_function(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    before = torch.get_num_threads()
    try:
        on_cpu.set_threads(before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        on_cpu.set_threads(before)
