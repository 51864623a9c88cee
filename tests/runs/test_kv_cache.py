"""The engine's cache on a CPU holds what its sequences can fill."""

import pytest

from trm_agent.runs.kv_cache import BLOCK_TOKENS, SPARE_BLOCKS, kv_cache_bytes

NANO = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "hidden_size": 192}


def test_every_sequence_at_its_longest_has_room():
    # keys and values of 2 layers with 2 heads of 32 float32: 1,024 bytes a token; 352 tokens fill 3 blocks of 128
    assert kv_cache_bytes(NANO, "float32", 128, 352) == (128 * 3 + SPARE_BLOCKS) * BLOCK_TOKENS * 1024


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
    assert kv_cache_bytes({**NANO, **changed}, dtype, 1, 1) == (1 + SPARE_BLOCKS) * BLOCK_TOKENS * bytes_per_token


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
