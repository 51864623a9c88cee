"""Rollout servers with devices of their own: what is refused before anything starts, and what is not."""

import functools

import pytest
from omegaconf import DictConfig

from trm_agent.runs.compose import compose_run
from trm_agent.runs.preflight_async import asynchronous, is_asynchronous
from trm_agent.runs.preflight_training import batches
from trm_agent.runs.preflight_verl import engines, refusals, types, weight_transfer
from trm_agent.runs.repeating import repetition
from trm_agent.runs.rollout_pool import devices_here, engine_devices, has_own_pool, own_devices

MODE = "trainer.v1.trainer_mode"
SECTION = "trainer.v1.separate_async"
ROLLOUT = "actor_rollout_ref.rollout"
TRANSFER = f"{ROLLOUT}.checkpoint_engine"
LORA = "actor_rollout_ref.model.lora_rank"
OFFLOAD = "actor_rollout_ref.actor.fsdp_config.param_offload"


@functools.cache
def composed(*overrides: str, experiment: str = "math_nano_separate") -> DictConfig:
    return compose_run([f"experiment={experiment}", *overrides])


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("hardware.agent_loops=workers",),
        ("data.train_batch_size=8", f"{SECTION}.parameter_sync_step=1"),
        ("data.train_batch_size=32", f"{SECTION}.parameter_sync_step=4"),
        (f"{ROLLOUT}.n_gpus_per_node=2",),
        (f"+{TRANSFER}.engine_kwargs.tcp.timeout_s=3.5",),
        ("trainer.v1.sampler.max_off_policy_strategy=drop",),
        (LORA + "=8", "actor_rollout_ref.model.lora.merge=true"),
    ],
)
def test_what_the_mode_can_do_is_allowed(overrides):
    config = composed(*overrides)
    for rule in (types, weight_transfer, batches, asynchronous, refusals, engines):
        rule(config)
    assert is_asynchronous(config)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            (f"{SECTION}.parameter_sync_step=4",),
            rf"^{SECTION}.parameter_sync_step: got 4, but each update .* is on a mini-batch of its own; allowed: 2, "
            "data.train_batch_size=16 over actor_rollout_ref.actor.ppo_mini_batch_size=8; change one of the three",
        ),
        ((f"{SECTION}.parameter_sync_step=1.5",), "parameter_sync_step: got 1.5; allowed: a whole number of 1 or more"),
        ((f"{SECTION}.num_warmup_batches=-1",), "num_warmup_batches: got -1; allowed: a finite number of 0 or more"),
        ((f"{SECTION}.num_warmup_batches=0",), rf"^{SECTION}.num_warmup_batches: got 0, with which no task is ahead"),
        ((f"{SECTION}.num_warmup_batches=3",), rf"got 3, but with {SECTION}.num_warmup_batches=3 .* null or 4"),
        ((f"{ROLLOUT}.nnodes=0",), rf"^{ROLLOUT}.nnodes: got 0, which is no pool of devices; allowed: 1 or more"),
        ((f"{ROLLOUT}.n_gpus_per_node=0",), "rollout.n_gpus_per_node: got 0, which is no pool of devices"),
        (
            (f"{ROLLOUT}.n_gpus_per_node=3", f"{ROLLOUT}.tensor_model_parallel_size=2"),
            "n_gpus_per_node: got 3, which leaves engines of 2 devices without some; allowed: .* a multiple of 2 dev",
        ),
        ((f"{TRANSFER}.backend=naive",), "backend: got 'naive', which hands .*; allowed: tcp; set"),
        ((f"{TRANSFER}.backend=null",), "backend: got null; allowed: `naive`, `tcp`, "),
        ((f"{TRANSFER}.backend=nccl",), "backend: got 'nccl', which needs GPUs; allowed: tcp"),
        ((f"{TRANSFER}.custom_backend_module=mine",), "custom_backend_module: got 'mine', but a run brings its own"),
        ((f"+{TRANSFER}.engine_kwargs.tcp.timeout_s=0",), "engine_kwargs.tcp.timeout_s: got 0; allowed: "),
        ((f"+{TRANSFER}.engine_kwargs.tcp.port=7",), "engine_kwargs.tcp.port: got 7; allowed: timeout_s alone"),
        (
            (f"+{TRANSFER}.engine_kwargs.nccl.rebuild_group=true",),
            rf"nccl.rebuild_group: got true, which no run with {TRANSFER}.backend=tcp reads; allowed: options of tcp",
        ),
        (("actor_rollout_ref.hybrid_engine=true",), "hybrid_engine: got true, but an engine .* would sample nothing"),
        ((f"{SECTION}.hybrid_rollout.enable_switch=true",), "enable_switch: got true, but a run lends"),
        ((f"{SECTION}.hybrid_rollout.switch_threshold_ratio=0.5",), "switch_threshold_ratio: got 0.5, but a run lends"),
        ((f"{LORA}=8",), "lora_rank: got 8, but verl sends such servers the base model's weights alone"),
        (
            ("policy_loss=trm_decoupled", f"{OFFLOAD}=true"),
            "param_offload: got true, but the policy of the step's beginning is put aside from the device",
        ),
        (
            ("policy_loss=trm_decoupled", "actor_rollout_ref.actor.fsdp_config.offload_policy=true"),
            "offload_policy: got true, but the policy of the step's beginning is put aside from the device",
        ),
        (("trainer.v1.colocate_async.num_warmup_batches=2",), "got 2, but with .*=separate_async the serv"),
        (("data.gen_batch_size=4",), "gen_batch_size: got 4, with .*=separate_async where tasks are drawn one by one"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(overrides, words):
    from trm_agent.runs.preflight_sampling import filtered_groups

    config = composed(*overrides)
    with pytest.raises(ValueError, match=words) as refused:  # noqa: PT012
        for rule in (types, weight_transfer, asynchronous, filtered_groups, refusals):
            rule(config)
    assert "; allowed: " in str(refused.value)


def test_offloaded_parameters_are_refused_only_where_they_are_put_aside():
    asynchronous(composed(f"{OFFLOAD}=true"))
    one = ("data.train_batch_size=8", f"{SECTION}.parameter_sync_step=1")
    asynchronous(composed("policy_loss=trm_decoupled", f"{OFFLOAD}=true", *one))


@pytest.mark.parametrize(
    "override",
    [
        "actor_rollout_ref.hybrid_engine=false",
        f"{ROLLOUT}.nnodes=1",
        f"{ROLLOUT}.n_gpus_per_node=3",
        f"{SECTION}.parameter_sync_step=2",
        f"{SECTION}.num_warmup_batches=2",
        f"{TRANSFER}.backend=tcp",
        f"{TRANSFER}.backend=nccl",
        f"+{TRANSFER}.engine_kwargs.tcp.timeout_s=3.5",
        # verl's own takes none
        f"+{TRANSFER}.engine_kwargs.naive.group_name=mine",
    ],
)
@pytest.mark.parametrize("experiment", ["math_nano", "math_nano_async"])
def test_another_mode_refuses_what_only_such_servers_have(override, experiment):
    field = override.lstrip("+").partition("=")[0]
    with pytest.raises(ValueError, match=rf"^{field}: got .*, but only rollout servers with devices of their own"):
        asynchronous(composed(override, experiment=experiment))
    asynchronous(composed(experiment=experiment))


@pytest.mark.parametrize("experiment", ["math_nano", "math_nano_async"])
def test_no_mode_lends_the_trainers_devices(experiment):
    with pytest.raises(ValueError, match="enable_switch: got true, but a run lends the trainer's dev"):
        refusals(composed(f"{SECTION}.hybrid_rollout.enable_switch=true", experiment=experiment))


def test_the_devices_of_both_are_counted():
    config = composed(f"{ROLLOUT}.nnodes=2", f"{ROLLOUT}.n_gpus_per_node=3", "trainer.n_gpus_per_node=4")
    assert has_own_pool(config)
    assert (own_devices(config), engine_devices(config), devices_here(config)) == (6, 6, 10)
    shared = composed("trainer.n_gpus_per_node=4", experiment="math_nano")
    assert not has_own_pool(shared)
    assert (own_devices(shared), engine_devices(shared), devices_here(shared)) == (0, 4, 4)


def test_an_engine_is_held_against_the_servers_own_devices():
    engines(composed(f"{ROLLOUT}.n_gpus_per_node=2", f"{ROLLOUT}.tensor_model_parallel_size=2"))
    shared = composed(f"{ROLLOUT}.tensor_model_parallel_size=2", experiment="math_nano")
    with pytest.raises(ValueError, match="tensor_model_parallel_size: got 2, with which an engine takes 2 devices"):
        engines(shared)


def test_weights_go_by_tcp_without_gpus_and_by_nccl_with_them():
    assert composed().actor_rollout_ref.rollout.checkpoint_engine.backend == "tcp"
    with_gpus = composed("hardware=gpu", "trainer.n_gpus_per_node=1")
    assert with_gpus.actor_rollout_ref.rollout.checkpoint_engine.backend == "nccl"
    asynchronous(with_gpus)
    asynchronous(composed("hardware=gpu", "trainer.n_gpus_per_node=1", f"{TRANSFER}.backend=tcp"))
    ours = composed("hardware=gpu", "trainer.n_gpus_per_node=1", f"+{TRANSFER}.engine_kwargs.nccl.rebuild_group=true")
    asynchronous(ours)
    ours.actor_rollout_ref.rollout.checkpoint_engine.backend = "tcp"
    with pytest.raises(ValueError, match=r"nccl\.rebuild_group: got true, which no run with"):
        asynchronous(ours)


@pytest.mark.parametrize("backend", ["nccl", "nixl", "mooncake", "kimi_ckpt_engine", "delta_sharded", "tcp"])
def test_on_the_trainers_devices_weights_are_handed_over_by_no_other_way(backend):
    # composed for GPUs, where verl's own exist
    config = composed(
        "hardware=gpu", "trainer.n_gpus_per_node=1", f"{TRANSFER}.backend={backend}", experiment="math_nano"
    )
    with pytest.raises(
        ValueError, match=rf"^{TRANSFER}.backend: got '{backend}', but .*; allowed: naive; leave it out"
    ):
        asynchronous(config)


def test_the_papers_setting_has_its_eight_gpus_in_two_halves():
    config = composed(experiment="math_qwen3_8b_separate")
    for rule in (types, weight_transfer, batches, asynchronous, refusals):
        rule(config)
    assert (devices_here(config), own_devices(config)) == (8, 4)
    assert config.actor_rollout_ref.rollout.checkpoint_engine.backend == "nccl"


def test_such_a_run_does_not_repeat_and_says_why():
    assert f"{MODE}=separate_async the clock decides which policy samples a token" in repetition(composed())
