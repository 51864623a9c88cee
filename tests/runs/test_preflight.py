"""Every refusal names the field, the value, what is allowed and what to do, and comes before Ray."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from trm_agent.runs import elsewhere, preflight, preflight_model, preflight_verl
from trm_agent.runs.compose import compose_run
from trm_agent.runs.estimators import GROUP_ESTIMATORS, OTHER_ESTIMATORS
from trm_agent.runs.preflight_async import UNSERVED
from trm_agent.runs.repeating import repeats
from trm_agent.runs.schema import check_groups
from trm_agent.runs.solver_tokens import SolverTokens

NANO = "experiment=math_nano"
TRM = "actor_rollout_ref.actor.policy_loss.trm"


@functools.cache
def nano() -> DictConfig:
    return compose_run([NANO])


def composed(*overrides: str) -> DictConfig:
    """The default run with fields changed; composing anew for each would take most of the suite's time."""
    config = copy.deepcopy(nano())
    for override in overrides:
        field, _, value = override.removeprefix("+").partition("=")
        OmegaConf.update(config, field, yaml.safe_load(value), force_add=True)
    return config


def check(config: DictConfig) -> None:
    """All that is refused before Ray: at composition, which `composed` leaves out, and then."""
    check_groups(config)
    preflight.check(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment",
    [
        "math_nano",
        "math_nano_async",
        "math_nano_mismatch",
        "math_nano_separate",
        "math_qwen3_8b",
        "math_qwen3_8b_async",
        "math_qwen3_8b_separate",
        "math_smollm2_async",
        "code_nano",
        "code_qwen3_8b",
    ],
)
def test_our_experiments_pass(experiment: str) -> None:
    preflight.check(compose_run([f"experiment={experiment}"]))


def test_the_default_run_has_seeds_for_its_turns() -> None:
    assert repeats(nano())


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset",
    [
        *("trm_random", "trm_ln", "trm_ser", "trm_token", "trm_adaptive", "trm_decoupled", "cppo", "opsm"),
        *("trm_stop", "trm_stop_cumulative", "trm_directional", "trm_inverse", "trm_permuted"),
    ],
)
def test_our_variants_pass(preset: str) -> None:
    config = compose_run(["experiment=math_nano", f"policy_loss={preset}"])
    preflight.check(config)
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "trm"


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["topk", "exact"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("actor_rollout_ref.rollout.name", "sglang"),
        ("actor_rollout_ref.rollout.agent.default_agent_loop", "single_turn_agent"),
        ("actor_rollout_ref.model.use_fused_kernels", "true"),
        ("actor_rollout_ref.actor.strategy", "megatron"),
    ],
)
def test_an_estimator_that_the_rollout_cannot_feed_is_refused(estimator: str, field: str, value: str) -> None:
    config = composed(f"{TRM}.estimator={estimator}", f"{field}={value}", "hardware.agent_loops=workers")
    with pytest.raises(ValueError, match="the rollout cannot feed this estimator") as error:
        preflight.check(config)
    assert str(error.value).startswith(field)


@pytest.mark.parametrize("field", ["data.max_prompt_length", "data.max_response_length"])
@pytest.mark.parametrize("value", ["null", ".inf", "[1]", "1.5", "true", "x"])
def test_budgets_of_tokens_that_are_no_numbers_are_refused(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: got .*; allowed: a whole number of 1 or more; "):
        preflight.check(composed(f"{field}={value}"))


@pytest.mark.parametrize("value", [".inf", ".nan", "0", "true", "x"])
def test_a_least_rate_that_makes_every_deadline_long_enough_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"^hardware.least_tokens_per_s: got .*a finite number"):
        check(composed(f"hardware.least_tokens_per_s={value}"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("env.id=trm/ChainMat-v0", ["env.id", "trm/ChainMat-v0", "'trm/ChainMath-v0'", "env.module"]),
        ("env.module=no_such_module", ["env.module", "no_such_module", "install"]),
        ("env.train.horizons=[0]", ["env.train.horizons[0]", "got 0", "of 1 or more"]),
        ("env.val.split=train", ["env.val.split", "train", "held_out"]),
        ("env.train.split=all", ["env.train.split", "all", "share tasks", "train"]),
        ("env.id=null", ["env.id: got null", "Gymnasium id", "mine/Task-v0"]),
        ("env.kwargs.reveal=later", ["env.kwargs", "trm/ChainMath-v0", "reveal", "later", "stepwise"]),
        ("+env.kwargs.reveel=upfront", ["env.kwargs", "reveel", "did you mean 'reveal'"]),
        (f"{TRM}.max_token_kl=-1", [f"{TRM}.max_token_kl", "-1", "above 0"]),
        (f"{TRM}.max_token_kl=0", [f"{TRM}.max_token_kl", "0", "above 0"]),
        (f"{TRM}.criterion=maxx", [f"{TRM}.criterion", "maxx", "'max'"]),
        (f"{TRM}.estimator=sampeld", [f"{TRM}.estimator", "sampeld", "'sampled'"]),
        (f"+{TRM}.max_tokn_kl=1", [f"{TRM}.max_tokn_kl", "max_token_kl"]),
        ("algorithm.rollout_correction.bypass_mode=false", ["bypass_mode", "decoupled=false"]),
        (f"{TRM}.decoupled=true", ["bypass_mode: got true, with", "decoupled=true", "allowed: false", "trm_decoupled"]),
        (
            f"{TRM}.mask_policy=start_of_step",
            ["bypass_mode: got true, with", "mask_policy=start_of_step", "allowed: false"],
        ),
        (f"{TRM}.criterion=yoked", ["yoked_run: got null", "metrics.jsonl", "as a path from the root"]),
        (f"{TRM}.criterion=permuted", ["mask_policy: got 'current'", "start_of_step", "trm_permuted"]),
        (f"{TRM}.criterion=maximum", [f"{TRM}.criterion", "maximum", "did you mean"]),
        (
            "actor_rollout_ref.actor.policy_loss.dump.distributions=true",
            ["dump.distributions: got true", "estimator=exact"],
        ),
        ("actor_rollout_ref.actor.policy_loss.dump.every=-1", ["dump.every", "-1", "0 or more"]),
        ("actor_rollout_ref.rollout.calculate_log_probs=false", ["calculate_log_probs", "false", "true"]),
        ("actor_rollout_ref.rollout.top_p=0.9", ["actor_rollout_ref.rollout.top_p", "0.9", "1.0"]),
        ("actor_rollout_ref.rollout.top_k=20", ["actor_rollout_ref.rollout.top_k", "20", "-1"]),
        ("actor_rollout_ref.rollout.temperature=0", ["actor_rollout_ref.rollout.temperature", "0", "above 0"]),
        (
            "actor_rollout_ref.model.path=/no/such/model",
            ["actor_rollout_ref.model.path", "/no/such/model", "config.json"],
        ),
        ("actor_rollout_ref.actor.ppo_mini_batch_size=7", ["ppo_mini_batch_size", "7", "divide"]),
        ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=48", ["ppo_micro_batch_size_per_gpu", "48", "128"]),
        ("trainer.n_gpus_per_node=3", ["3 devices", "multiple of 3"]),
        ("actor_rollout_ref.rollout.n=1", ["actor_rollout_ref.rollout.n", "1", "at least 2"]),
        ("actor_rollout_ref.rollout.max_model_len=100", ["max_model_len", "100", "raise"]),
        ("trainer.total_training_steps=0", ["trainer.total_training_steps", "0", "of 1 or more"]),
        ("env.train.num_tasks=10", ["env.train.num_tasks", "10", "raise"]),
    ],
)
def test_what_cannot_work_is_refused(override: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"[=:]") as refusal:
        check(composed(override))
    message = str(refusal.value)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("experiment=math_nan", "'math_nano'"),
        ("policy_loss=ppo_clp", "'ppo_clip'"),
        ("env=chain_mat", "'chain_math'"),
        ("hardware=gpus", "'gpu'"),
    ],
)
def test_an_unknown_choice_names_the_closest(override: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {nearest}"):
        compose_run([override])


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ValueError, match="train_batch_sise"):
        compose_run([NANO, "data.train_batch_sise=4"])


def test_an_unknown_policy_loss_names_the_closest() -> None:
    config = composed("actor_rollout_ref.actor.policy_loss.loss_mode=vanila")
    with pytest.raises(ValueError, match=r"loss_mode: got 'vanila'; allowed: .*did you mean 'vanilla'"):
        preflight.check_policy_loss(config, ["vanilla", "trm", "gspo"])


@pytest.mark.slow
def test_a_sandbox_that_does_not_answer_is_refused() -> None:
    config = compose_run(["experiment=code_nano", "env.kwargs.sandbox=http://127.0.0.1:9"])
    with pytest.raises(
        ValueError, match=r"env.kwargs.sandbox=http://127.0.0.1:9: does not run code: .*docs/sandbox.md"
    ):
        preflight.check(config)


def test_the_values_that_the_longest_horizon_of_both_streams_needs_stand_in_one_message() -> None:
    config = composed()

    def takes(tokens: int, solves: bool = True) -> Callable[[dict[str, Any]], SolverTokens]:
        def measure(options: dict[str, Any]) -> SolverTokens:
            horizon = options["horizon"]
            return SolverTokens(30, *((tokens * horizon, horizon + 1, horizon, tokens // 2) if solves else (0, 0)))

        return measure

    preflight_model.check_budget(config, takes(30))
    with pytest.raises(ValueError, match=r"^env.val.horizons: got 8, at which .* .* 320 after it; ") as refusal:
        preflight_model.check_budget(config, takes(40))
    # a quarter more than the 320 tokens of this episode; with the 64 of the prompt they are a context of 464
    assert "for horizon 8 set: env.nano.response_tokens=400 env.nano.total_tokens=464; or lower it" in str(
        refusal.value
    )
    with pytest.raises(
        ValueError, match=r"set: env.limits.max_turns=13 env.limits.max_tool_calls=12 env.limits.max_turn"
    ):
        preflight_model.check_budget(composed("env.val.horizons=[12]", "env.limits.max_tool_calls=11"), takes(80))
    # without a solver nobody knows how many turns a horizon takes
    preflight_model.check_budget(composed("env.limits.max_turns=1"), takes(0, solves=False))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", sorted(GROUP_ESTIMATORS))
def test_a_group_estimator_needs_a_group(estimator: str) -> None:
    name = f"algorithm.adv_estimator={estimator}"
    with pytest.raises(ValueError, match=rf"rollout\.n: got 1, .* at least 2 .* for the baseline of {name}; raise it"):
        preflight.check(composed(name, "actor_rollout_ref.rollout.n=1"))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", sorted(OTHER_ESTIMATORS - UNSERVED.keys()))
def test_an_estimator_without_groups_needs_none(estimator: str) -> None:
    preflight.check(composed(f"algorithm.adv_estimator={estimator}", "actor_rollout_ref.rollout.n=1"))


@pytest.mark.parametrize(
    ("variables", "theirs", "login", "may"),
    [
        ({}, {}, "", False),
        ({"WANDB_MODE": "offline"}, {}, "", True),
        ({}, {"WANDB_API_KEY": "x"}, "", True),
        ({}, {"WANDB_MODE": "disabled"}, "", True),
        ({}, {}, "api.wandb.ai", True),
        ({"WANDB_BASE_URL": "https://wandb.mine:8080/x"}, {}, "api.wandb.ai", False),
        ({"WANDB_BASE_URL": "https://wandb.mine:8080/x"}, {}, "wandb.mine", True),
    ],
)
def test_wandb_needs_a_key_for_its_host_or_to_be_offline(
    variables: dict[str, str],
    theirs: dict[str, str],
    login: str,
    may: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight_verl, "is_installed", lambda _: True)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("NETRC", "WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if login:
        (tmp_path / "_netrc").write_text(f"machine {login} login user password x\n")
    config = OmegaConf.create(
        {"trainer": {"logger": ["wandb"]}, "ray_kwargs": {"ray_init": {"runtime_env": {"env_vars": theirs}}}}
    )
    if may:
        preflight_verl.loggers(config)
    else:
        with pytest.raises(ValueError, match="for which no key is found"):
            preflight_verl.loggers(config)


def test_devices_may_be_those_of_a_ray_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = OmegaConf.create(
        {
            "hardware": {"kind": "gpu"},
            "trainer": {"device": "cuda", "n_gpus_per_node": 8, "nnodes": 2},
            "ray_kwargs": {},
        }
    )
    monkeypatch.setattr(preflight_verl, "_cuda_devices", lambda: 0)
    monkeypatch.setattr(elsewhere, "RAY_HERE", tmp_path / "ray_current_cluster")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match="no CUDA device is found"):
        preflight_verl.devices(config)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    preflight_verl.devices(config)
    monkeypatch.delenv("RAY_ADDRESS")
    (tmp_path / "ray_current_cluster").write_text("10.0.0.1:6379")
    preflight_verl.devices(config)
