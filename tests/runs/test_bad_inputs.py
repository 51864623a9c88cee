"""What a user may write by mistake: exit code 2 before Ray, one line that names it, no traceback, no folder.

All in one process; where Hydra's composition is not what is tried, one composition serves all.
"""

import functools
import os
import pickle
import shlex
from pathlib import Path
from unittest.mock import patch

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from trm_agent import train
from trm_agent.runs.compose import compose_run

ROLLOUT, ACTOR = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
# words before Hydra's composition, or of it
NAMES = {
    "polcy_loss=trm": "polcy_loss: no such field; did you mean 'policy_loss'?",
    "trainer.total_trainning_steps=3": "no such field; did you mean 'total_training_steps'?",
    f"{ACTOR}.policy_loss.trm.max_token_k1=0.01": "no such field; did you mean 'max_token_kl'",
    "+polcy_loss=ppo_clip": "polcy_loss: no such field; did you mean 'policy_loss'?",
    "+run.foo=1": "run.foo: no such field; did you mean",
    "+foo=1": "foo: no such field; Known: 'actor_rollout_ref'",
    "++trainer.foo=1": "trainer.foo: no such field",
    "+env.limts.max_turns=3": "env.limts: no such field; did you mean 'limits'?",
    f"+{ROLLOUT}.tempreture=1": "did you mean 'temperature'?",
    "+nano.learning_rte=1": "did you mean 'learning_rate'",
    "+seed=1": "+seed: the field is there already; leave out the plus",
    "trainer.remove_previous_ckpt_in_save=true": "write it with a plus: +trainer.remove_previous_ckpt_in_save=",
    "seed = 1": "seed = 1: write it without spaces: seed=1",
    "seed =1": "write it without spaces: seed=1",
    "seed= 1": "write it without spaces: seed=1",
    "steps": "steps: it sets nothing; expected FIELD=VALUE",
    "experiment=math_nan": "experiment: got 'math_nan'; allowed: ",
    "model=hub": "actor_rollout_ref.model.path: got null, which model=hub needs",
    "experiment=math_qwen3_8b": "hardware.kind: got 'gpu', but no CUDA device is found",
    "hardware=gpu": "hardware.kind: got 'gpu', but no CUDA device is found",
    "policy_loss=ppo_clp": "did you mean 'ppo_clip'",
    "seed=1,2": "Hydra reads it as several values",
    "run.experiment=code_nano": "run.experiment: got 'code_nano'; allowed: nothing, the command fills it in",
    "~run.name": "allowed: a value, since every run reads it",
    "env=custom env.id=CartPole-v1": "makes a CartPoleEnv, which is not a trm_envs.ToolEnv; derive it from that",
    "env=custom env.id=FrozenLake-v1": "or play a plain Gymnasium environment through trm/Gym-v0",
    "=1": "'=1': names no field; expected FIELD=VALUE",
    "+=1": "'+=1': names no field; expected FIELD=VALUE",
    "hydra.run.dir=/tmp/x": "hydra.run.dir: got '/tmp/x', but a command composes its configuration without a job",
    "hydra/job_logging=disabled": "hydra/job_logging: got 'disabled', but a command composes",
    "+hydra.verbose=true": "hydra.verbose: got 'true', but",
    "~hydra.job": "hydra.job: got '', but",
    "hydra.searchpath=[/tmp]": "hydra.searchpath: got '[/tmp]', but",
}
VALUES = {
    "seed=foo": "seed: got 'foo'; allowed: a whole number from 0",
    "seed=-1": "seed: got -1; allowed: a whole number from 0",
    "seed=1.5": "seed: got 1.5",
    "env.train.horizons=4": "env.train.horizons: got 4; allowed: a list",
    "env.limits.max_turns=abc": "env.limits.max_turns: got 'abc'; allowed: a whole number of 1 or more",
    "env.limits.max_turns=null": "env.limits.max_turns: got null",
    "env.limits=5": "env.limits: got 5; allowed: a section",
    "env.chat.roles=[assistant]": "env.chat.roles: got ['assistant']",
    "run.root=/proc/x": "run.root: got '/proc/x', where the run's folder cannot be made",
    "run.name=''": "run.name: got ''; allowed: text without `/`, not empty",
    "run.dir=": "run.dir: got ''; allowed: null or text, not empty",
    "run.root=": "run.root: got ''; allowed: text, not empty",
    "trainer.experiment_name=": "trainer.experiment_name: got ''; allowed: text without `/`, not empty",
    "run.dir=/dev/null/x": "run.dir: got '/dev/null/x', where the run's folder cannot be made",
    "trainer.save_freq=abc": "trainer.save_freq: got 'abc'; allowed: a whole number; give one, such as -1",
    "trainer.save_freq=1.5": "trainer.save_freq: got 1.5",
    "trainer.test_freq=null": "trainer.test_freq: got null",
    "trainer.total_training_steps=1.5": "trainer.total_training_steps: got 1.5; allowed: a whole number of 1 or more",
    "trainer.total_training_steps=null": "trainer.total_training_steps: got null",
    "trainer.total_epochs=x": "trainer.total_epochs: got 'x'",
    "trainer.total_epochs=0": "trainer.total_epochs: got 0; allowed: a whole number of 1 or more",
    "trainer.logger=[console,tensorbord]": "trainer.logger: got 'tensorbord'; allowed: wandb, ",
    "trainer.logger=[wandb]": "trainer.logger: got 'wandb'",
    "trainer.logger=[clearml]": "allowed: backends that are installed; pip install clearml",
    "trainer.logger=null": "trainer.logger: got null; allowed: a list of",
    "trainer.logger=[3]": "trainer.logger: got [3]; allowed: a list of",
    "trainer.val_before_train=maybe": "trainer.val_before_train: got 'maybe'; allowed: true or false",
    "trainer.nnodes=0": "trainer.nnodes: got 0",
    "trainer.nnodes=2": "trainer.nnodes: got 2, but no Ray cluster runs here; allowed: 1, this machine alone",
    "ray_kwargs.ray_init.num_cpus=0": "ray_kwargs.ray_init.num_cpus: got 0; allowed: null or a whole number",
    "actor_rollout_ref.model.lora_rank=-1": "actor_rollout_ref.model.lora_rank: got -1",
    "trainer.n_gpus_per_node=one": "trainer.n_gpus_per_node: got 'one'",
    "trainer.max_actor_ckpt_to_keep=0": "allowed: null or a whole number of 1 or more",
    "trainer.experiment_name=a/b": "run.name: got 'a/b-seed0'; allowed: text without `/`",
    "trainer.device=gpu": "trainer.device: got 'gpu'; allowed: `cpu`, `cuda`, `npu`",
    "trainer.device=cuda": "trainer.device: got 'cuda', with hardware.kind=cpu",
    "trainer.v1.trainer_mode=separate_async": "rollout.nnodes: got 0, which is no pool of devices",
    "trainer.v1.sampler=null": "trainer.v1.sampler: got null; allowed: a section",
    "trainer.v1=3": "trainer.v1: got 3; allowed: a section",
    "trainer.v1.sampler.max_off_policy_threshold=2": "got 2, but with trainer.v1.trainer_mode=sync every episode",
    "trainer.v1.separate_async.parameter_sync_step=2": "but only rollout servers with devices of their own",
    "trainer.v1.separate_async.hybrid_rollout.enable_switch=true": "but a run lends the trainer's devices to no",
    "trainer.default_local_dir=/tmp/x": "allowed: ${run.dir}/checkpoints; set run.dir",
    "trainer.val_only=true": "trainer.val_only: got true, but a run trains; allowed: false; evaluate",
    "trainer.use_v1=false": "trainer.use_v1: got false",
    "algorithm.filter_groups.enable=1": "algorithm.filter_groups.enable: got 1; allowed: true or false",
    "algorithm.filter_groups.max_inflight_gen_batches=2": "got 2, but a group without signal is replaced by one task",
    "algorithm.filter_groups.metric=acc": "metric: got 'acc', which is read with algorithm.filter_groups.enable=true",
    "algorithm.filter_groups.enable=true algorithm.filter_groups.metric=score": "allowed: `reward`, `acc`",
    "env.overlong.treatment=drop": "env.overlong.treatment: got 'drop'; allowed: `keep`, `mask`, `penalty`",
    "env.train.curriculum.low=0.3": "got 0.3, which is read with env.train.curriculum.enable=true alone",
    "algorithm.adv_estimator=grp": "did you mean 'grpo'",
    "algorithm.gamma=2": "algorithm.gamma: got 2; allowed: a finite number from 0 to 1",
    "algorithm.use_kl_in_reward=1": "algorithm.use_kl_in_reward: got 1; allowed: true or false",
    "data.train_batch_size=0": "data.train_batch_size: got 0",
    "data.train_batch_size=16.0": "data.train_batch_size: got 16.0; allowed: a whole number",
    "data.train_files=train.parquet": "data.train_files: got 'train.parquet', but tasks come from the environment",
    "data.prompt_key=question": "data.prompt_key: got 'question', but no rows of a file are read",
    "data.truncation=left": "data.truncation: got 'left', but no prompt is dropped or cut",
    "reward.custom_reward_function.path=r.py": "but an environment scores its own episodes",
    "custom_reward_function.path=r.py": "but an environment scores its own episodes",
    "reward_model.enable=true": "but an environment scores its own episodes",
    f"{ROLLOUT}.multi_turn.max_assistant_turns=5": "which no run reads; allowed: null; set env.limits.max_turns",
    f"{ROLLOUT}.multi_turn.tool_config_path=t.yaml": "but tools come from the environment",
    f"{ROLLOUT}.gpu_memory_utilization=1.5": "allowed: a finite number above 0 and at most 1",
    f"{ROLLOUT}.n=x": "actor_rollout_ref.rollout.n: got 'x'",
    f"{ROLLOUT}.dtype=32": "actor_rollout_ref.rollout.dtype: got 32; allowed: `auto`",
    f"{ROLLOUT}.enforce_eager=no": "allowed: true or false",
    f"{ROLLOUT}.val_kwargs.do_sample=false": "set actor_rollout_ref.rollout.val_kwargs.temperature=0",
    f"{ROLLOUT}.engine_kwargs=3": "actor_rollout_ref.rollout.engine_kwargs: got 3; allowed: a section",
    f"{ACTOR}.optim.lr=fast": "actor_rollout_ref.actor.optim.lr: got 'fast'; allowed: a finite number",
    f"{ACTOR}.optim.lr=-1": "optim.lr: got -1",
    f"{ACTOR}.optim.lr_scheduler_type=linear": "allowed: `constant`, `cosine`",
    f"{ACTOR}.optim.betas=0.9": "betas: got 0.9; allowed: a list; each item: a finite number from 0 to below 1",
    f"{ACTOR}.clip_ratio=0.1": "which the loss trm does not read",
    f"{ACTOR}.loss_agg_mode=mean": "allowed: `token-mean`",
    f"{ACTOR}.ppo_epochs=0": "ppo_epochs: got 0",
    f"{ACTOR}.use_dynamic_bsz=5": "use_dynamic_bsz: got 5; allowed: true or false",
    f"{ROLLOUT}.dtype=float17": "did you mean 'float16'",
    f"{ROLLOUT}.name=sglang": "rollout.name: got 'sglang'; allowed: vllm, or an engine that is installed",
    f"{ROLLOUT}.name=vlm": "did you mean 'vllm'?",
    f"{ROLLOUT}.tensor_model_parallel_size=3": "got 3, with which an engine takes 3 devices; allowed: sizes",
    f"{ACTOR}.ulysses_sequence_parallel_size=2": "got 2; allowed: sizes that divide the ranks, of which there are 1;",
    f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=2": "sequence_parallel_size: got 2; allowed: sizes that",
    "actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2": "allowed: sdpa without",
    "critic.ulysses_sequence_parallel_size=2": "got 2, which verl's critic lacks without a GPU; allowed: 1",
    f"{ACTOR}.strategy=fdsp": "did you mean 'fsdp' or 'fsdp2'?",
    f"{ACTOR}.fsdp_config.model_dtype=fp8": "fsdp_config.model_dtype: got 'fp8'; allowed: `fp32`",
    f"{ACTOR}.checkpoint.save_contents=[weights]": "save_contents[0]: got 'weights'; allowed: `model`",
    f"{ACTOR}.kl_loss_type=k4": "kl_loss_type: got 'k4'",
    f"{ROLLOUT}.load_format=foo": "actor_rollout_ref.rollout.load_format: got 'foo'; allowed: `auto`",
    f"+{ROLLOUT}.engine_kwargs.vllm.kv_cache_dtype=fp9": "engine_kwargs.vllm.kv_cache_dtype: got 'fp9'",
    f"{ROLLOUT}.quantization=awq": "rollout.quantization: got 'awq'; allowed: null, `fp8`",
    "global_profiler.steps=[a]": "global_profiler.steps[0]: got 'a'; allowed: a whole number of 0 or more",
    "global_profiler.tool=nsight": "global_profiler.tool: got 'nsight'; allowed: null, `nsys`",
    "critic.checkpoint.async_save=true": "critic.checkpoint.async_save: got true, but only Megatron's engine",
    "critic.optim.lr_scheduler_type=linear": "critic.optim.lr_scheduler_type: got 'linear'; allowed: `constant`",
    "run.keep_best=val-core/h4/acc/mean@9": "did you mean 'val-core/h4/acc/mean@1'",
    "data.val_max_samples=64": "data.val_max_samples: got 64; allowed: -1 with env.val.greedy_tasks=",
    "actor_rollout_ref.model.path=.": "got '.', which has no config.json",
    "actor_rollout_ref.model.path=/no/model": "got '/no/model', which is not a folder here",
    "'actor_rollout_ref.model.path=\"~/models/deepseek-llm-7b-chat\"'": "got null, which model=hub needs",
    "actor_rollout_ref.model.custom_chat_template=x": "are made from the template in the model's folder",
    "nano.env_id=abc": "nano.env_id='abc': not registered; ",
    "nano.env_id=CartPole-v1 nano.env_kwargs={}": "nano.env_kwargs={} of CartPole-v1: makes a CartPoleEnv",
    "nano.env_kwargs.reveal=later": "nano.env_kwargs={'reveal': 'later'} of trm/ChainMath-v0: reveal: got 'later'",
    "data.tokenizer=mine": "but tokens and checks use the tokenizer in the model's folder",
    "trainer.checkpoint_callback_class=nowhere.Mine": "got 'nowhere.Mine'; allowed: a module that can be imported here",
    "actor_rollout_ref.model.external_lib=[json,nowhere]": "external_lib: got 'nowhere'; allowed: a module",
    "actor_rollout_ref.model.lora_adapter_path=nowhere": "got 'nowhere', which is not there; allowed: the folder of",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=abc": "log_prob_micro_batch_size_per_gpu: got 'abc'",
    "hardware.kind=gpu trainer.device=cuda": "hardware.kind: got 'gpu', but no CUDA device is found",
    "hardware.kind=gpu trainer.device=cuda trainer.n_gpus_per_node=1": "or hardware=cpu, or start it where",
}


@functools.cache
def nano() -> bytes:
    # read four times as fast as a configuration is copied
    return pickle.dumps(compose_run(["experiment=math_nano"]))


def reuse(config_name: str, overrides: list[str]) -> DictConfig:
    """Stand in for `hydra.compose`: the default run with fields set."""
    config, parser = pickle.loads(nano()), OverridesParser.create()
    for override in overrides:
        found = parser.parse_override(override)
        if found.key_or_group not in ("experiment", "hydra.searchpath"):
            OmegaConf.update(config, found.key_or_group, found.value(), merge=False, force_add=True)
    return config


def refused(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which a command is refused."""
    assert train.main(shlex.split(words)) == train.BAD_INPUT
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert "Traceback" not in line
    assert len(line.splitlines()) == 1
    return line


@pytest.fixture(autouse=True)
def before_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """An empty folder, in which a refused command leaves nothing; what comes after the checks fails."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("trm_agent.runs.elsewhere.RAY_HERE", tmp_path / "no_cluster")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr("trm_agent.runs.preflight_verl._cuda_devices", lambda: 0)
    for name in ("_suited_model", "train"):
        monkeypatch.setattr(train, name, lambda *_: pytest.fail("the command was not refused"))
    # the command sets `hardware.env_vars`
    with patch.dict(os.environ):
        yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("words", NAMES)
def test_a_name_that_nobody_knows_is_refused(words: str, capsys: pytest.CaptureFixture[str]):
    assert NAMES[words] in refused(words, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("words", VALUES)
def test_a_value_that_cannot_work_is_refused(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    nano()
    monkeypatch.setattr(hydra, "compose", reuse)
    assert VALUES[words] in refused(words, capsys)
