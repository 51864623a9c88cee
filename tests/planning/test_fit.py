"""A composed configuration for GPUs has the memory's knobs of its plan, but for those that the user has set."""

import copy
import functools

import pytest
from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.compose import compose_run, compose_tree
from trm_agent.runs.planning import fit
from trm_agent.runs.planning.fit import KNOBS, aims_of, layout_of, plan_of_run, shape_of_run, ulysses_of
from trm_agent.runs.planning.told import told_plan

UNKNOWN = ["experiment=math_1x80gb", "model=hub", "actor_rollout_ref.model.path=mine/unknown"]


@functools.cache
def preset() -> DictConfig:
    return compose_tree(["experiment=math_1x24gb"])


def changed(**values: object) -> DictConfig:
    """The preset of one GPU of 24 GB with fields changed, not yet fitted."""
    config = copy.deepcopy(preset())
    for path, value in values.items():
        OmegaConf.update(config, path.replace("__", "."), value, force_add=True)
    return config


def test_the_layout_is_read_from_the_configuration() -> None:
    config = changed(
        trainer__n_gpus_per_node=4,
        trainer__nnodes=2,
        actor_rollout_ref__rollout__dtype="float32",
        actor_rollout_ref__actor__policy_loss__trm__estimator="exact",
        actor_rollout_ref__actor__fsdp_config__model_dtype="bf16",
        actor_rollout_ref__actor__fsdp_config__fsdp_size=4,
        actor_rollout_ref__model__lora_rank=8,
    )
    layout = layout_of(config)
    assert (layout.devices, layout.engine_width, layout.width, layout.stored) == (4, 4, 2, 2)
    assert layout.exact
    assert layout.adapter
    assert layout.on_cuda


def test_entropy_and_fused_kernels_are_read_from_the_configuration() -> None:
    actor, model = "actor_rollout_ref__actor", "actor_rollout_ref__model"
    assert layout_of(changed()).entropy_bytes == 0
    assert not layout_of(changed()).fused
    for field in ("entropy_coeff", "calculate_entropy"):
        value = 0.01 if field == "entropy_coeff" else True
        # in bfloat16, compiled
        assert layout_of(changed(**{f"{actor}__{field}": value})).entropy_bytes == 2
    eager = {f"{actor}__fsdp_config__use_torch_compile": False, f"{actor}__entropy_coeff": 0.01}
    assert layout_of(changed(**eager)).entropy_bytes == 10
    # of the kept set, whose entries are few; another loss does not read the estimator
    replayed = {f"{actor}__policy_loss__trm__estimator": "replayed", f"{actor}__entropy_coeff": 0.01}
    assert layout_of(changed(**replayed)).entropy_bytes == 0
    assert layout_of(changed(**replayed, **{f"{actor}__policy_loss__loss_mode": "vanilla"})).entropy_bytes == 2
    assert layout_of(changed(**{f"{model}__use_fused_kernels": True})).fused


def test_an_adapter_holds_longer_trajectories_than_the_whole_model() -> None:
    plans = []
    for rank in (0, 16):
        config = changed(actor_rollout_ref__model__lora_rank=rank, data__max_response_length=14_336)
        fit.fit(config, ["data.max_response_length"])
        shape = shape_of_run(config)
        assert shape is not None
        plans.append(plan_of_run(config, shape))
    assert plans[0].layout.offload_policy
    assert plans[1].fits
    assert not plans[1].layout.offload_policy


def test_static_micro_batches_stay_as_they_are() -> None:
    config = changed(
        actor_rollout_ref__actor__use_dynamic_bsz=False,
        actor_rollout_ref__actor__ppo_micro_batch_size_per_gpu=2,
        data__max_response_length=1024,
    )
    # 2 sequences of 2,048 + 1,024 tokens
    assert aims_of(config, []).fixed["micro_tokens"] == 6144
    before = config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu
    fit.fit(config, [])
    assert config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu == before


def test_the_older_field_of_ulysses_overrules_as_in_verl() -> None:
    config = changed(actor_rollout_ref__actor__ulysses_sequence_parallel_size=2)
    assert ulysses_of(config) == aims_of(config, []).fixed["ulysses"] == 2


def test_another_trainer_than_fsdp_is_left_alone() -> None:
    config = changed(actor_rollout_ref__actor__strategy="megatron")
    before = {name: OmegaConf.select(config, path) for name, path in KNOBS.items()}
    fit.fit(config, [])
    assert {name: OmegaConf.select(config, path) for name, path in KNOBS.items()} == before
    assert told_plan(config).startswith("plan: none")


@pytest.mark.slow
def test_a_resumed_run_has_the_same_values_and_an_own_value_stays() -> None:
    overrides = ["experiment=math_1x24gb", f"{KNOBS['micro_tokens']}=12544", f"{KNOBS['checkpointing']}=false"]
    first, second = compose_run(overrides), compose_run(overrides)
    assert first == second
    assert first.actor_rollout_ref.actor.ppo_max_token_len_per_gpu == 12_544
    assert not first.actor_rollout_ref.model.enable_gradient_checkpointing


@pytest.mark.slow
def test_a_model_of_unknown_shape_gets_what_any_model_trains_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "unreachable", lambda: "no network")
    config = compose_run(UNKNOWN)
    own = f"{KNOBS['tensor_parallel']}=2"
    theirs = compose_run([*UNKNOWN, own])
    assert theirs.actor_rollout_ref.rollout.tensor_model_parallel_size == 2
    assert config.actor_rollout_ref.model.enable_gradient_checkpointing
    rollout = config.actor_rollout_ref.rollout
    assert (rollout.tensor_model_parallel_size, rollout.max_model_len) == (1, 32_768)
    assert config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu == 32_768
    assert "the shape of mine/unknown is not known here" in told_plan(config)


@pytest.mark.slow
def test_a_response_that_does_not_fit_is_shortened_unless_the_user_set_it() -> None:
    tight = ["experiment=math_1x24gb", "model=qwen3_0_6b", "hardware.gpu_memory_gib=10"]
    config = compose_run(tight)
    assert 0 < config.data.max_response_length < 10_240
    rollout = config.actor_rollout_ref.rollout
    assert rollout.max_model_len == config.data.max_prompt_length + config.data.max_response_length
    assert compose_run([*tight, "data.max_response_length=10240"]).data.max_response_length == 10_240
