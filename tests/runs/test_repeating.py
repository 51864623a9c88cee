"""Runs with seeds for their turns: wherever it can be had, and refused with the reason where it is demanded."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from trm_agent.runs import announcing, dry_run
from trm_agent.runs.repeating import FIELD, deterministic, obstacle, repeats, repetition
from trm_agent.trust_region.guarantee import told_selection

ROLLOUT = "actor_rollout_ref.rollout"
VLLM = f"{ROLLOUT}.engine_kwargs.vllm"
# what is read of the default run
NANO = {
    FIELD: None,
    "hardware.kind": "cpu",
    "hardware.engine_threads": 1,
    "actor_rollout_ref.model.mtp": {"enable": True, "enable_rollout": False},
    "trainer.nnodes": 1,
    "trainer.n_gpus_per_node": 1,
    f"{ROLLOUT}.name": "vllm",
    f"{ROLLOUT}.dtype": "float32",
    f"{ROLLOUT}.max_model_len": 1024,
    f"{ROLLOUT}.max_num_batched_tokens": 4096,
    f"{ROLLOUT}.enable_chunked_prefill": True,
    f"{ROLLOUT}.logprobs_mode": "processed_logprobs",
}
OBSTACLES = {
    "hardware.kind": "gpu",
    "hardware.engine_threads": 2,
    "trainer.n_gpus_per_node": 2,
    "trainer.nnodes": 2,
    f"{ROLLOUT}.name": "sglang",
    f"{ROLLOUT}.dtype": "bfloat16",
    f"{ROLLOUT}.max_num_batched_tokens": 500,
    f"{ROLLOUT}.logprobs_mode": "processed_logits",
    # options of vLLM's own win over verl's fields
    f"{VLLM}.enable_chunked_prefill": True,
    f"{VLLM}.dtype": "bfloat16",
    f"{VLLM}.max_num_batched_tokens": 512,
    f"{VLLM}.max-num-batched-tokens": 512,
    f"{VLLM}.max-model-len": "auto",
    f"{VLLM}.logprobs_mode": "processed_logits",
    f"{VLLM}.speculative_config": "ngram",
    f"{VLLM}.spec_method": "ngram",
    "actor_rollout_ref.model.mtp.enable_rollout": True,
}
HARMLESS = {
    f"{VLLM}.dtype": "float",
    f"{VLLM}.max_model_len": 512,
    f"{VLLM}.max_num_batched_tokens": "1024",
    f"{VLLM}.enable_chunked_prefill": None,
    f"{VLLM}.speculative_config": None,
    f"{VLLM}.logprobs_mode": "raw_logprobs",
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
    assert "a prompt of up to 8192 tokens" in obstacle(changed(None, **{f"{VLLM}.max_model_len": 8192})).because
    config.actor_rollout_ref.rollout.response_length = 200
    assert obstacle(config) is None


@pytest.mark.parametrize(("field", "value"), HARMLESS.items())
def test_other_options_of_the_engine_stand_against_nothing(field, value):
    assert obstacle(changed(None, **{field: value})) is None


def test_an_option_of_the_engine_makes_up_for_a_field_that_it_replaces():
    fields = {f"{ROLLOUT}.dtype": "bfloat16", f"{ROLLOUT}.max_num_batched_tokens": 500}
    options = {f"{VLLM}.dtype": "float32", f"{VLLM}.max_num_batched_tokens": 2048}
    assert obstacle(changed(None, **fields)) is not None
    assert obstacle(changed(None, **fields, **options)) is None


def test_tokens_read_at_once_are_not_held_against_a_length_that_only_the_model_knows():
    # verl then takes the model's length and raises its own field to it, but not vLLM's option
    lengths = {f"{ROLLOUT}.max_model_len": None, f"{ROLLOUT}.prompt_length": 30, f"{ROLLOUT}.response_length": 20}
    assert obstacle(changed(None, **lengths)) is None
    found = obstacle(changed(None, **lengths, **{f"{VLLM}.max_num_batched_tokens": 512}))
    assert found.setting == f"{VLLM}.max_num_batched_tokens=512"


@pytest.mark.parametrize(
    ("asked", "values", "told"),
    [
        (None, {}, "the same seed repeats this run, token by token"),
        (True, {}, "the same seed repeats this run, token by token"),
        (False, {}, f"the same seed does not repeat this run: {FIELD}=false"),
        # whoever needs no repetition is not told of another obstacle
        (False, {"hardware.kind": "gpu"}, f"the same seed does not repeat this run: {FIELD}=false"),
        (
            None,
            {"hardware.engine_threads": 2},
            "the same seed does not repeat this run: with hardware.engine_threads=2 the engine's attention sums over "
            "threads by the sequences that share a batch",
        ),
    ],
)
def test_a_run_says_whether_its_seed_repeats_it_and_why_not(asked, values, told):
    assert repetition(changed(asked, **values)) == told


def test_the_first_lines_of_a_run_and_the_look_before_it_say_so(capsys):
    more = {
        "seed": 0,
        "env": {
            "id": "trm/X-v0",
            "train": {"horizons": [2], "curriculum": {"enable": False}},
            "val": {"horizons": [2], "num_tasks": 4},
        },
        "data": {"train_batch_size": 4},
        f"{ROLLOUT}.n": 2,
        "run": {"deterministic": None, "dir": "runs/a", "init_from": None},
        "trainer": {
            **{"nnodes": 1, "n_gpus_per_node": 1, "experiment_name": "x", "total_training_steps": 2},
            **{"test_freq": 1, "save_freq": 1, "val_before_train": False, "resume_mode": "auto"},
        },
        "hardware.engine_threads": 3,
        "actor_rollout_ref.actor.policy_loss.loss_mode": "vanilla",
    }
    config = changed(None, **more)
    announcing.announce(config, SimpleNamespace(state="finished", step=2, path="runs/a", notes=("a note",)))
    shown = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in shown[2:]] == [repetition(config), "a note"]
    assert "engine_threads=3" in shown[2]
    assert repetition(config) in dry_run._steps(config, 0)
    loss = {"loss_mode": "trm", "trm": {"estimator": "exact"}}
    more |= {"env": {**more["env"], "overlong": {"treatment": "mask"}}, "actor_rollout_ref.actor.policy_loss": loss}
    more |= {"actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-sum-norm"}
    del more["actor_rollout_ref.actor.policy_loss.loss_mode"]
    config = changed(None, **more)
    announcing.announce(config, SimpleNamespace(state="finished", step=2, path="runs/a", notes=()))
    assert f"  {told_selection(config)}\n" in capsys.readouterr().out
    assert "env.overlong.treatment=mask leaves" in "".join(dry_run._steps(config, 0))


@pytest.mark.parametrize(("asked", "has", "chunks"), [(None, True, False), (False, False, True)])
def test_the_driver_writes_what_it_decided_and_lets_prompts_be_read_whole(asked, has, chunks):
    runner = pytest.importorskip("trm_agent.verl_plugin.driver.runner")
    config = changed(asked)
    runner.let_turns_repeat(config)
    assert config.run.deterministic is has
    assert config.actor_rollout_ref.rollout.enable_chunked_prefill is chunks
