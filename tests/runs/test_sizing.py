"""What a run on a CPU takes from its model and its machine: threads, bucket, cache, episodes in play, deadlines."""

import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest
from omegaconf import DictConfig

from trm_agent.models.smollm2 import SHAPE
from trm_agent.runs import fit_cpu_engine as fitting
from trm_agent.runs.compose import compose_run
from trm_agent.runs.fit_cpu_engine import CACHE_VARIABLE, fit, limits_with_room, shape_of, threads_of
from trm_agent.runs.sizing import (
    BLOCK_TOKENS,
    SPARE_TOKENS,
    ModelSize,
    bucket_mib,
    cache_room,
    engine_threads,
    kv_cache_bytes,
    least_rate,
    model_size,
    seconds_per_weight,
)

NANO = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "hidden_size": 192}
GIB = 1 << 30
BUCKET = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
# 13B weights, as a folder on the disk
LARGE = {**SHAPE, "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 40, "hidden_size": 5120}
LARGE |= {"intermediate_size": 13824, "head_dim": 128}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores, 16 GiB free, 2e-10 s per weight."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(fitting, "free_bytes", lambda: 16 * GIB)
    monkeypatch.setattr(fitting, "seconds_per_weight", lambda _: 2e-10)
    fitting._per_weight_s.cache_clear()


def run_of(*overrides: str, shape: dict | None = None, folder: Path | None = None) -> DictConfig:
    if shape is None or folder is None:
        return compose_run(["experiment=math_nano", *overrides])
    (folder / "config.json").write_text(json.dumps(shape))
    return compose_run(["experiment=math_nano", "model=hub", f"actor_rollout_ref.model.path={folder}", *overrides])


def fitted(config: DictConfig, variable: str | None = None) -> tuple[list[str], str | None]:
    """The lines, and the variable that vLLM finds."""
    with patch.dict(os.environ):
        os.environ.pop(CACHE_VARIABLE, None)
        os.environ.update({} if variable is None else {CACHE_VARIABLE: variable})
        return fit(config), os.environ.get(CACHE_VARIABLE)


def cache(config: DictConfig) -> int | None:
    return config.actor_rollout_ref.rollout.engine_kwargs.vllm.get("kv_cache_memory_bytes")


def test_smollm2_has_135_million_weights_of_which_the_embedding_is_the_largest_matrix() -> None:
    size = model_size(SHAPE)
    assert size is not None
    # 30 x (2 x 576 x 64 x (9 + 3) + 3 x 576 x 1536) + 49152 x 576; its norms have 35,136 weights more
    assert size == ModelSize(134_479_872, 28_311_552, 30 * 2 * 3 * 64)


def test_the_nano_model_is_left_as_it_was_but_for_a_bucket_of_its_own_size(machine) -> None:
    config = run_of()
    lines, variable = fitted(config)
    assert (lines, variable) == ([], None)
    assert (config.hardware.engine_threads, config.hardware.least_tokens_per_s) == (1, 1.0)
    assert config.actor_rollout_ref.rollout.max_num_seqs == 128
    assert cache(config) == kv_cache_bytes(NANO, "float32", 128, 352, 32)
    # 1.4 million weights in float32 are 5.3 MiB
    assert 5 <= config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes <= 8
    assert (config.env.limits.generate_timeout_s, config.env.limits.episode_timeout_s) == (600, 7200)


def test_smollm2_gets_all_cores_a_bucket_for_its_embedding_and_a_cache_for_its_sequences(machine) -> None:
    config = run_of("model=smollm2", "actor_rollout_ref.rollout.max_num_seqs=16")
    lines, _ = fitted(config)
    assert lines == ["2 threads of the engine for a model of 134 million weights"]
    assert config.hardware.engine_threads == 2
    # 28.3 million numbers of 4 bytes are 108 MiB
    assert config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes == 109
    assert cache(config) == kv_cache_bytes(SHAPE, "float32", 16, 352, 32)


def test_what_is_set_stays(machine) -> None:
    config = run_of(
        "model=smollm2",
        "hardware.engine_threads=1",
        "hardware.least_tokens_per_s=3",
        f"{BUCKET}=300",
        "env.limits.episode_timeout_s=9999",
        "+actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes=7",
    )
    assert fitted(config, "4")[1] == "4"
    assert (config.hardware.engine_threads, config.hardware.least_tokens_per_s) == (1, 3)
    assert config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes == 300
    assert (config.env.limits.episode_timeout_s, cache(config)) == (9999, 7)


def test_options_of_vllm_that_are_set_with_dashes_stay_too(machine) -> None:
    vllm = "+actor_rollout_ref.rollout.engine_kwargs.vllm"
    config = run_of(f"{vllm}.kv-cache-memory-bytes=7")
    fitted(config)
    assert cache(config) is None
    config = run_of(f"{vllm}.block-size=64")
    fitted(config)
    # 352 tokens are 11 blocks of 32, and 6 of 64
    assert cache(config) == kv_cache_bytes(NANO, "float32", 128, 352, 64)
    assert cache(config) != kv_cache_bytes(NANO, "float32", 128, 352, 32)


def test_a_second_call_changes_nothing(machine) -> None:
    config = run_of("model=smollm2")
    fitted(config)
    before = config.copy()
    assert fitted(config)[0] == []
    assert config == before


def test_a_bucket_without_room_for_the_embedding_is_refused_before_ray(machine) -> None:
    with pytest.raises(ValueError, match=rf"^{BUCKET}: got 65, in which .* \(28 million numbers\).* at least 108"):
        fitted(run_of("model=smollm2", f"{BUCKET}=65"))


def test_as_many_episodes_are_in_play_as_the_memory_has_keys_and_values_for(machine) -> None:
    # 135 million weights take 2.5 GiB; 0.4 of the other 13.5 are 5.4 GiB. A sequence of 7,168 tokens of 46,080 bytes
    # is 0.31 GiB, the spare tokens 0.18
    config = run_of("model=smollm2", "actor_rollout_ref.rollout.max_model_len=7168")
    lines, _ = fitted(config)
    assert config.actor_rollout_ref.rollout.max_num_seqs == 16
    assert "16 episodes in play at once, not 128: keys and values of 7168 tokens each in the 5.4 GiB" in lines[1]
    assert cache(config) <= cache_room(model_size(SHAPE), 16 * GIB)


def test_a_large_model_has_longer_deadlines_and_its_own_are_kept(machine, tmp_path: Path) -> None:
    # 13 billion weights at 2e-10 s: 0.38 tokens/s of a sequence; a fifth is 0.08
    config = run_of(shape=LARGE, folder=tmp_path)
    lines, _ = fitted(config)
    assert config.hardware.least_tokens_per_s == pytest.approx(0.0769, abs=0.002)
    # 32 tokens of a turn at that rate take 416 s, with the margin less than the 600 of the default
    assert config.env.limits.generate_timeout_s == 600
    # but an episode's 288 tokens 3,745 s, its programs 300, its turns 12, and a margin of 60: less than 7,200 as well
    assert config.env.limits.episode_timeout_s == 7200
    longer = run_of(
        "data.max_response_length=1024", "actor_rollout_ref.rollout.max_model_len=1088", shape=LARGE, folder=tmp_path
    )
    lines, _ = fitted(longer)
    assert longer.env.limits.episode_timeout_s == pytest.approx(300 + 1024 / 0.0769 + 12 + 60, rel=0.02)
    assert any(line.startswith("deadlines for 0.077 tokens/s") for line in lines)
    own = run_of("data.max_response_length=1024", "env.limits.episode_timeout_s=5000", shape=LARGE, folder=tmp_path)
    assert limits_with_room(own).episode_timeout_s == 5000


def test_a_run_that_must_repeat_has_one_thread(machine) -> None:
    assert threads_of(run_of("model=smollm2")) == 2
    assert threads_of(run_of("model=smollm2", "run.deterministic=true")) == 1


def test_a_gpu_keeps_verls_bucket_and_its_own_rate(machine) -> None:
    config = compose_run(["experiment=math_qwen3_8b"])
    assert fitted(config) == ([], None)
    assert (config.hardware.engine_threads, config.hardware.least_tokens_per_s) == (1, 10.0)
    assert config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes == 2048
    assert cache(config) is None


def test_a_model_of_unknown_sizes_gets_all_cores_and_a_large_bucket(machine) -> None:
    config = run_of("model=hub", "actor_rollout_ref.model.path=nobody/knows")
    assert shape_of(config) == {}
    assert fitted(config) == ([], None)
    assert config.hardware.engine_threads == 2
    assert config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes == 1024
    assert cache(config) is None


@pytest.mark.parametrize(
    ("weights", "cores", "must_repeat", "threads"),
    [(1_000_000, 8, False, 1), (19_999_999, 8, False, 1), (20_000_000, 8, False, 8), (10**9, 8, True, 1)],
)
def test_threads_follow_the_weights(weights: int, cores: int, must_repeat: bool, threads: int) -> None:
    assert engine_threads(ModelSize(weights, 1, 1), cores, must_repeat) == threads
    assert engine_threads(None, cores, False) == cores


def test_a_bucket_holds_the_largest_matrix_and_little_more_than_all_of_them() -> None:
    mib = 1 << 20
    assert bucket_mib(ModelSize(3 * mib, mib, 1), 4) == 13
    assert bucket_mib(ModelSize(300 * mib, 2 * mib, 1), 4) == 64
    assert bucket_mib(ModelSize(300 * mib, 100 * mib, 1), 2) == 201


def test_the_least_rate_is_a_fifth_of_what_the_matrices_take_and_never_above_one() -> None:
    assert least_rate(ModelSize(10**9, 1, 1), 1e-9) == pytest.approx(0.2)
    assert least_rate(ModelSize(10**8, 1, 1), 1e-9) == 1.0
    assert least_rate(ModelSize(10**6, 1, 1), 1.0) == 1.0
    assert least_rate(None, 1.0) == 1.0


def test_a_weight_costs_more_for_more_sequences() -> None:
    one, many = seconds_per_weight(1), seconds_per_weight(256)
    # between a petaflop and a megaflop per second
    assert 2e-15 < one < many < 1e-3


def test_every_sequence_at_its_longest_has_room() -> None:
    # keys and values of 2 layers with 2 heads of 32 float32: 1,024 bytes a token; 352 tokens fill 3 blocks of 128
    assert kv_cache_bytes(NANO, "float32", 128, 352) == (128 * 3 * 128 + SPARE_TOKENS) * 1024


@pytest.mark.parametrize(("block", "filled"), [(32, 352), (48, 384)])
def test_smaller_blocks_leave_less_room_unused(block: int, filled: int) -> None:
    # 352 tokens fill 11 blocks of 32, and 7.3 of 48
    spare = -(-SPARE_TOKENS // block) * block
    assert kv_cache_bytes(NANO, "float32", 128, 352, block) == (128 * filled + spare) * 1024


@pytest.mark.parametrize(
    ("changed", "dtype", "bytes_per_token"),
    [
        ({}, "bfloat16", 512),
        ({"num_key_value_heads": None}, "float32", 2048),
        # heads of 192 / 4 = 48
        ({"head_dim": None}, "float32", 1536),
    ],
)
def test_the_sizes_that_a_model_states_count(changed: dict, dtype: str, bytes_per_token: int) -> None:
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
def test_a_model_that_does_not_state_its_heads_is_unknown(shape: dict, dtype: str) -> None:
    assert kv_cache_bytes(shape, dtype, 128, 352) is None


@pytest.mark.parametrize("variable", ["1", "0", "many"])
def test_the_variable_is_the_most_or_stays_where_the_sequences_could_fill_it(machine, variable: str) -> None:
    config = run_of()
    assert fitted(config, variable)[1] == (None if variable == "1" else variable)
    assert cache(config) == (kv_cache_bytes(NANO, "float32", 128, 352, 32) if variable == "1" else None)
    long = run_of("actor_rollout_ref.rollout.max_model_len=1048576")
    assert fitted(long, variable)[1] == variable
    assert cache(long) is None
