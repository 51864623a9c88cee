"""Presets mean what they say, and the GPU experiment passes verl's own checks without a GPU."""

import subprocess
import sys

import pytest
import yaml

from trm_agent.runs.compose import CONF, choices, compose_run
from trm_agent.runs.planning.presets import PRESETS

# each argument is a run's overrides, in words
VALIDATE = """
import sys
from omegaconf import OmegaConf
from trm_agent.runs.compose import compose_run
from trm_agent.runs import preflight
from trm_agent.runs.planning.fit import plan_of_run, shape_of_run
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config
import trm_agent.verl_plugin.actor.policy_loss
checked = set()
for words in sys.argv[1:]:
    config = compose_run(words.split())
    if words.split()[0] not in checked:
        checked.add(words.split()[0])
        preflight.check(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    algorithm = omega_conf_to_dataclass(config.algorithm)
    loss = actor.policy_loss
    print(type(actor).__name__, actor.strategy, loss.loss_mode, loss.trm.max_token_kl, actor.optim.lr)
    print(type(rollout).__name__, rollout.name, rollout.n, algorithm.adv_estimator, config.data.train_batch_size)
    plan = plan_of_run(config, shape_of_run(config))
    assert plan.fits, (words, plan.longest, plan.limit, plan.phase_too_large())
"""
MODELS = ("nano", "smollm2", "qwen3_0_6b", "qwen3_1_7b", "qwen3_4b", "qwen3_8b", "qwen3_8b_base")
MACHINES = ((1, 1), (1, 4), (1, 8), (2, 8))
# made for shorter contexts than the presets' trajectories
SHORT = {"smollm2": "data.max_prompt_length=1024 data.max_response_length=7168"}


def test_a_loss_of_verl_replaces_ours() -> None:
    config = compose_run(["experiment=math_nano", "policy_loss=ppo_clip"])
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "vanilla"
    assert not config.algorithm.rollout_correction.bypass_mode


def test_the_mismatch_preset_is_the_default_with_a_few_differences() -> None:
    config = compose_run(["experiment=math_nano_mismatch"])
    assert config.hardware.kind == "cpu"
    assert config.actor_rollout_ref.rollout.dtype == "bfloat16"
    assert config.actor_rollout_ref.actor.policy_loss.trm.criterion == "both"


def test_a_policy_loss_that_the_command_names_is_that_of_every_experiment() -> None:
    loss = compose_run(["experiment=math_nano_mismatch", "policy_loss=trm_stop"]).actor_rollout_ref.actor.policy_loss
    assert loss.trm.criterion == "stop"
    # what stands in an experiment's own tree would win over the named one
    for path in (CONF / "experiment").glob("*.yaml"):
        actor = (yaml.safe_load(path.read_text()).get("actor_rollout_ref") or {}).get("actor") or {}
        assert "policy_loss" not in actor, path.name


def validated(*runs: str) -> list[str]:
    """What a process prints that puts runs through our rules, verl's own and the memory model; two lines a run."""
    done = subprocess.run([sys.executable, "-c", VALIDATE, *runs], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line for line in done.stdout.splitlines() if line.startswith(("FSDPActorConfig", "RolloutConfig"))]


@pytest.mark.slow
def test_every_model_composes_for_every_machine_and_passes_verls_own_validation() -> None:
    models = [name for name in MODELS if name in choices("model")]
    runs = [
        f"experiment=math_4x80gb model={model} trainer.nnodes={nodes} trainer.n_gpus_per_node={gpus} "
        f"{SHORT.get(model, '')}"
        for model in models
        for nodes, gpus in MACHINES
    ]
    runs += [f"experiment={preset.name}" for preset in PRESETS]
    runs += ["experiment=math_nano hardware=gpu trainer.n_gpus_per_node=1"]
    runs += ["experiment=math_qwen3_8b_async", "experiment=math_qwen3_8b_separate"]
    assert len(validated(*runs)) == 2 * len(runs)


@pytest.mark.slow
def test_the_gpu_experiment_passes_verls_own_validation() -> None:
    actor, rollout = validated("experiment=math_qwen3_8b")
    # the paper's setting: max 0.05, lr 1e-6, group 16, batch 32
    assert actor.split() == ["FSDPActorConfig", "fsdp2", "trm", "0.05", "1e-06"]
    assert rollout.split() == ["RolloutConfig", "vllm", "16", "grpo", "32"]
