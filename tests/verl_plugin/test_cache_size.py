"""The engine's cache is made smaller than the variable says where its sequences cannot fill it."""

import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest
from omegaconf import DictConfig, OmegaConf

from trm_agent.verl_plugin.driver.launch import (
    BLOCK_TOKENS,
    CACHE_VARIABLE,
    SPARE_TOKENS,
    _size_cache,
    kv_cache_bytes,
)

SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
NEED = kv_cache_bytes(SHAPE, "float32", 128, 352)


def config_of(model: Path, kind: str = "cpu", tokens: int | None = 352, **options: int) -> DictConfig:
    rollout = {
        "max_model_len": tokens,
        "prompt_length": 64,
        "response_length": 288,
        "max_num_seqs": 128,
        "dtype": "float32",
        "engine_kwargs": {"vllm": options},
    }
    return OmegaConf.create(
        {"hardware": {"kind": kind}, "actor_rollout_ref": {"model": {"path": str(model)}, "rollout": rollout}}
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    return tmp_path


def sized(config: DictConfig, variable: str | None = "1") -> tuple[int | None, str | None]:
    """The option and the variable that vLLM finds."""
    with patch.dict(os.environ):
        os.environ.pop(CACHE_VARIABLE, None)
        os.environ.update({} if variable is None else {CACHE_VARIABLE: variable})
        _size_cache(config)
        options = config.actor_rollout_ref.rollout.engine_kwargs.vllm
        return options.get("kv_cache_memory_bytes"), os.environ.get(CACHE_VARIABLE)


@pytest.mark.parametrize("tokens", [352, None])
def test_a_cache_that_the_sequences_cannot_fill_is_smaller(model: Path, tokens: int | None):
    assert sized(config_of(model, tokens=tokens)) == (NEED, None)


def test_the_users_option_stays(model: Path):
    assert sized(config_of(model, kv_cache_memory_bytes=7)) == (7, None)


@pytest.mark.parametrize(
    ("kind", "tokens", "variable"),
    [("gpu", 352, "1"), ("cpu", 1 << 20, "1"), ("cpu", 352, None), ("cpu", 352, "0"), ("cpu", 352, "")],
)
def test_a_gpu_long_sequences_and_a_size_that_vllm_chooses_are_left_alone(
    model: Path, kind: str, tokens: int, variable: str | None
):
    assert sized(config_of(model, kind, tokens), variable) == (None, variable)


def test_a_model_on_the_hub_is_left_alone(tmp_path: Path):
    assert sized(config_of(tmp_path / "organisation" / "name")) == (None, "1")


NANO = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "hidden_size": 192}


def test_every_sequence_at_its_longest_has_room():
    # keys and values of 2 layers with 2 heads of 32 float32: 1,024 bytes a token; 352 tokens fill 3 blocks of 128
    assert kv_cache_bytes(NANO, "float32", 128, 352) == (128 * 3 * 128 + SPARE_TOKENS) * 1024


def test_smaller_blocks_leave_less_room_unused(model: Path):
    # 352 tokens fill 11 blocks of 32, and 7.3 of 48
    for block, filled in ((32, 352), (48, 384)):
        spare = -(-SPARE_TOKENS // block) * block
        need = (128 * filled + spare) * 1024
        assert kv_cache_bytes(NANO, "float32", 128, 352, block) == need
        assert sized(config_of(model, block_size=block)) == (need, None)


@pytest.mark.parametrize(
    ("changed", "dtype", "bytes_per_token"),
    [
        ({}, "bfloat16", 512),
        ({"num_key_value_heads": None}, "float32", 2048),
        # heads of 192 / 4 = 48
        ({"head_dim": None}, "float32", 1536),
    ],
)
def test_the_sizes_that_a_model_states_count(changed: dict, dtype: str, bytes_per_token: int):
    assert kv_cache_bytes({**NANO, **changed}, dtype, 1, 1) == (BLOCK_TOKENS + SPARE_TOKENS) * bytes_per_token


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ({}, "float32"),
        ({"text_config": NANO}, "float32"),
        ({**NANO, "num_hidden_layers": None}, "float32"),
        ({**NANO, "head_dim": None, "hidden_size": None}, "float32"),
        (NANO, "auto"),
    ],
)
def test_a_model_that_does_not_state_its_heads_is_unknown(shape: dict, dtype: str):
    assert kv_cache_bytes(shape, dtype, 128, 352) is None
