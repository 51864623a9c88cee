"""Runs with seeds for their turns: wherever it can be had, and refused with the reason where it is demanded."""

import pytest
from omegaconf import OmegaConf

from trm_agent.runs.repeating import FIELD, deterministic, obstacle, repeats

ROLLOUT = "actor_rollout_ref.rollout"
# what is read of the default run
NANO = {
    FIELD: None,
    "hardware.kind": "cpu",
    "trainer.nnodes": 1,
    "trainer.n_gpus_per_node": 1,
    f"{ROLLOUT}.name": "vllm",
    f"{ROLLOUT}.dtype": "float32",
    f"{ROLLOUT}.max_model_len": 1024,
    f"{ROLLOUT}.max_num_batched_tokens": 4096,
    f"{ROLLOUT}.enable_chunked_prefill": True,
}
OBSTACLES = {
    "hardware.kind": "gpu",
    "trainer.n_gpus_per_node": 2,
    "trainer.nnodes": 2,
    f"{ROLLOUT}.name": "sglang",
    f"{ROLLOUT}.dtype": "bfloat16",
    f"{ROLLOUT}.max_num_batched_tokens": 500,
    f"{ROLLOUT}.engine_kwargs.vllm.enable_chunked_prefill": True,
}


def changed(asked, **values):
    config = OmegaConf.create()
    for field, value in {**NANO, FIELD: asked, **values}.items():
        OmegaConf.update(config, field, value, force_add=True)
    return config


@pytest.mark.parametrize(("asked", "has"), [(None, True), (True, True), (False, False)])
def test_the_default_run_repeats_unless_it_need_not(asked, has):
    config = changed(asked)
    deterministic(config)
    assert repeats(config) is has


@pytest.mark.parametrize(("field", "value"), OBSTACLES.items())
def test_an_obstacle_is_refused_where_repetition_is_demanded_and_taken_where_it_is_open(field, value):
    demanded = changed(True, **{field: value})
    with pytest.raises(ValueError, match=rf"^{FIELD}: got true, but with {field}={value} .+; allowed: null or false; "):
        deterministic(demanded)
    for asked in (None, False):
        config = changed(asked, **{field: value})
        deterministic(config)
        assert not repeats(config)


def test_the_context_of_a_run_without_a_length_of_the_engine_is_prompt_and_response():
    # 300 + 201 is one more than is read at once
    lengths = {f"{ROLLOUT}.max_model_len": None, f"{ROLLOUT}.prompt_length": 300, f"{ROLLOUT}.response_length": 201}
    config = changed(None, **lengths, **{f"{ROLLOUT}.max_num_batched_tokens": 500})
    assert "a prompt of up to 501 tokens" in obstacle(config).because
    config.actor_rollout_ref.rollout.response_length = 200
    assert obstacle(config) is None


@pytest.mark.parametrize(("asked", "has", "chunks"), [(None, True, False), (False, False, True)])
def test_the_driver_writes_what_it_decided_and_lets_prompts_be_read_whole(asked, has, chunks):
    runner = pytest.importorskip("trm_agent.verl_plugin.driver.runner")
    config = changed(asked)
    runner.let_turns_repeat(config)
    assert config.run.deterministic is has
    assert config.actor_rollout_ref.rollout.enable_chunked_prefill is chunks
