"""Presets mean what they say, and the GPU experiment passes verl's own checks without a GPU."""

import subprocess
import sys

import pytest

from trm_agent.runs.compose import compose_run

VALIDATE = """
import sys
from omegaconf import OmegaConf
from trm_agent.runs.compose import compose_run
from trm_agent.runs import preflight
config = compose_run(sys.argv[1:])
preflight.check(config)
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config
import trm_agent.verl_plugin.actor.policy_loss
validate_config(config, need_reference_policy(config), need_critic(config))
actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
algorithm = omega_conf_to_dataclass(config.algorithm)
loss = actor.policy_loss
print(type(actor).__name__, actor.strategy, loss.loss_mode, loss.trm.max_token_kl, actor.optim.lr)
print(type(rollout).__name__, rollout.name, rollout.n, algorithm.adv_estimator, config.data.train_batch_size)
"""


def test_a_loss_of_verl_replaces_ours() -> None:
    config = compose_run(["experiment=math_nano", "policy_loss=ppo_clip"])
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "vanilla"
    assert not config.algorithm.rollout_correction.bypass_mode


def test_the_mismatch_preset_is_the_default_with_a_few_differences() -> None:
    config = compose_run(["experiment=math_nano_mismatch"])
    assert config.hardware.kind == "cpu"
    assert config.actor_rollout_ref.rollout.dtype == "bfloat16"
    assert config.actor_rollout_ref.actor.policy_loss.trm.criterion == "both"


@pytest.mark.slow
def test_the_gpu_experiment_passes_verls_own_validation() -> None:
    done = subprocess.run(
        [sys.executable, "-c", VALIDATE, "experiment=math_qwen3_8b"], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr[-2000:]
    actor, rollout = done.stdout.strip().splitlines()[-2:]
    # the paper's setting: max 0.05, lr 1e-6, group 16, batch 32
    assert actor.split() == ["FSDPActorConfig", "fsdp2", "trm", "0.05", "1e-06"]
    assert rollout.split() == ["RolloutConfig", "vllm", "16", "grpo", "32"]
