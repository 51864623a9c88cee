"""What verl refuses only as it builds its own settings is told in one line before Ray."""

import pickle
from typing import Any

import pytest
import ray
from omegaconf import OmegaConf
from verl.trainer import main_ppo

from trm_agent.runs.compose import compose_run
from trm_agent.verl_plugin.driver import launch

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


@pytest.fixture(scope="module")
def nano() -> bytes:
    return pickle.dumps(compose_run(["experiment=math_nano"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (f"{ACTOR}.ppo_micro_batch_size_per_gpu", None, f"{ACTOR}: [actor] Please set at least one of"),
        (f"{ACTOR}.optim.optimizer", "Adamm", f"{ACTOR}.optim.optimizer: got 'Adamm'; allowed: `ASGD`, "),
        (f"{ACTOR}.optim.optimizer_impl", "torhc.optim", f"{ACTOR}.optim.optimizer_impl: got 'torhc.optim', which"),
        (f"{ROLLOUT}.pipeline_model_parallel_size", 2, f"{ROLLOUT}: Current rollout self.name='vllm' not implemented"),
        ("algorithm.adv_estimator", "gae", "critic.model.path: got null, which algorithm.adv_estimator=gae needs"),
        (f"{ACTOR}.use_kl_loss", True, "[actor_rollout_ref.ref] Please set at least one of"),
        (f"{ACTOR}.loss_scale_factor", None, "loss_scale_factor: got null, with loss_agg_mode="),
    ],
)
def test_what_verl_refuses_is_told_in_one_line(nano: bytes, field: str, value: Any, words: str):
    config = pickle.loads(nano)
    OmegaConf.update(config, field, value, force_add=True)
    with pytest.raises(ValueError, match=r"\w") as refused:
        launch.check(config)
    assert words in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.slow
def test_the_default_is_refused_by_nobody_and_what_verl_gives_ray_is_told_without_ray(nano: bytes):
    config, ray_init = launch.checked(pickle.loads(nano))
    assert config.actor_rollout_ref.rollout.agent.agent_loop_config_path == str(launch.AGENT_LOOPS)
    assert (ray_init["num_cpus"], ray_init["include_dashboard"]) == (12, False)
    assert "VLLM_DISABLE_COMPILE_CACHE" in ray_init["runtime_env"]["env_vars"]
    assert not ray.is_initialized()
    assert pickle.loads(pickle.dumps((config, ray_init)))[1] == ray_init
    # verl is as before
    assert vars(main_ppo)["ray"] is ray
    OmegaConf.update(config, f"{ROLLOUT}.pipeline_model_parallel_size", 2)
    with pytest.raises(ValueError, match="not implemented"):
        launch.checked(config)


@pytest.mark.parametrize(
    ("given", "size", "chosen"), [(None, 1, "uni"), (None, 2, "mp"), ("ray", 2, "ray"), ("mp", 1, "mp")]
)
def test_an_engine_of_several_processes_is_not_put_into_one(nano: bytes, given: Any, size: int, chosen: str):
    config = pickle.loads(nano)
    options = config.actor_rollout_ref.rollout.engine_kwargs.vllm
    config.actor_rollout_ref.rollout.tensor_model_parallel_size, options.distributed_executor_backend = size, given
    launch._choose_executor(config)
    assert options.distributed_executor_backend == chosen


@pytest.mark.parametrize("name", ["distributed-executor-backend", "distributed_executor_backend"])
def test_an_executor_that_is_set_stays_in_either_spelling(nano: bytes, name: str):
    config = pickle.loads(nano)
    OmegaConf.update(config, f"{ROLLOUT}.engine_kwargs.vllm.{name}", "ray", force_add=True)
    before = config.copy()
    launch._choose_executor(config)
    assert config == before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"max_logprobs": 96}),
        # verl leaves out what is null, and vLLM's own number is 20
        ({"max_logprobs": None}, {"max_logprobs": 96}),
        ({"max_logprobs": 200}, {"max_logprobs": 200}),
        ({"max-logprobs": 200}, {"max-logprobs": 200}),
        ({"max-logprobs": None}, {"max-logprobs": None, "max_logprobs": 96}),
    ],
)
def test_the_engine_may_tell_what_the_estimator_asks_for_unless_a_number_is_set(
    nano: bytes, given: dict[str, Any], expected: dict[str, Any]
):
    config = pickle.loads(nano)
    OmegaConf.update(config, f"{ACTOR}.policy_loss.trm.estimator", "replayed")
    OmegaConf.update(config, f"{ROLLOUT}.top_k", 64)
    options = config.actor_rollout_ref.rollout.engine_kwargs.vllm
    for name, value in given.items():
        OmegaConf.update(options, name, value, force_add=True)
    launch._let_vllm_record(config)
    assert {name: value for name, value in options.items() if "logprobs" in name} == expected
