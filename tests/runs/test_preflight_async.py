"""Asynchronous training: what is refused before anything starts, and what is not."""

import pytest

from trm_agent.runs.compose import compose_run
from trm_agent.runs.preflight_async import advantages, asynchronous, is_asynchronous, queue
from trm_agent.runs.preflight_verl import refusals, types
from trm_agent.runs.repeating import deterministic, repeats, repetition
from trm_agent.runs.verl_fates import verl_fields

V1 = "trainer.v1"
SAMPLER = f"{V1}.sampler"
WARMUP = f"{V1}.colocate_async.num_warmup_batches"


def composed(*overrides, experiment="math_nano_async"):
    return compose_run([f"experiment={experiment}", *overrides])


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (f"{SAMPLER}.max_off_policy_strategy=drop",),
        (f"{SAMPLER}.max_off_policy_threshold=null",),
        (f"{SAMPLER}.max_off_policy_threshold=2",),
        (f"{WARMUP}=0.5", f"{SAMPLER}.max_off_policy_threshold=2"),
        ("hardware.agent_loops=workers",),
        ("data.gen_batch_size=1",),
        # 40 steps of 16 tasks, and 16 in place of those that fail
        ("env.train.num_tasks=656",),
    ],
)
def test_what_the_mode_can_do_is_allowed(overrides):
    config = composed(*overrides)
    for rule in (types, asynchronous, refusals):
        rule(config)
    assert is_asynchronous(config)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"{V1}.trainer_mode=colocated_async", "allowed: `sync`, `colocate_async`, .* did you mean .colocate_async"),
        (f"{WARMUP}=0", "got 0, with which no task is ahead of its step; allowed: at least 0.0625"),
        (f"{WARMUP}=0.05", "got 0.05, with which no task is ahead of its step; .* one task of .*=16; raise it, or set"),
        (f"{SAMPLER}.max_off_policy_threshold=0", "max_off_policy_threshold: got 0; allowed: null or a whole number"),
        (f"{SAMPLER}.max_off_policy_threshold=1", "got 1, but with .*=1 .* up to 1 steps before it; .* null or 2"),
        (f"{WARMUP}=2.5", "got 3, but with .*=2.5 .* up to 3 steps before it; allowed: null or 4 and more"),
        (f"{SAMPLER}.max_off_policy_strategy=skip", "got 'skip'; allowed: `wait`, `drop`"),
        (
            f"{SAMPLER}.max_off_policy_threshold=null {SAMPLER}.max_off_policy_strategy=drop",
            "strategy: got 'drop', but with .*threshold=null no task is beyond it; allowed: wait; set it, or .* 2 or",
        ),
        ("data.gen_batch_size=4", "data.gen_batch_size: got 4, with .*; allowed: null or 1; leave it out, or set"),
        ("actor_rollout_ref.rollout.name=sglang", "got 'sglang', with .* record no version of a token; allowed: vllm"),
        ("actor_rollout_ref.rollout.disaggregation.enabled=true", "got true, with .* several servers share a turn"),
    ],
)
def test_what_needs_synchrony_or_cannot_be_is_refused_with_the_remedy(override, words):
    config = composed(*override.split())
    with pytest.raises(ValueError, match=words):  # noqa: PT012
        types(config)
        asynchronous(config)


@pytest.mark.parametrize(
    "override",
    [f"{WARMUP}=2", f"{SAMPLER}.max_off_policy_threshold=3", f"{SAMPLER}.max_off_policy_strategy=wait"],
)
def test_a_synchronous_run_refuses_what_it_does_not_read(override):
    field, _, value = override.partition("=")
    words = rf"^{field}: got '?{value}'?, but with trainer.v1.trainer_mode=sync every episode is of the step's own"
    with pytest.raises(ValueError, match=words):
        asynchronous(composed(override, experiment="math_nano"))
    asynchronous(composed(experiment="math_nano"))


@pytest.mark.parametrize("mode", ["colocate_async", "separate_async"])
@pytest.mark.parametrize(
    ("override", "strategy"),
    [
        ("seed=1", "wait"),
        (f"{SAMPLER}.max_off_policy_strategy=drop", "drop"),
        (f"{SAMPLER}={{max_off_policy_strategy:drop}}", "drop"),
    ],
)
def test_a_mode_that_is_set_by_hand_drops_old_tasks_on_request_alone(override, strategy, mode):
    config = composed(f"{V1}.trainer_mode={mode}", override, experiment="math_nano")
    assert config.trainer.v1.sampler.max_off_policy_strategy == strategy


def test_a_synchronous_run_has_verls_default_of_what_it_does_not_read():
    field = f"{SAMPLER}.max_off_policy_strategy"
    found = composed(experiment="math_nano").trainer.v1.sampler.max_off_policy_strategy
    assert found == verl_fields()["fields"][field][1] == "drop"


@pytest.mark.parametrize("name", ["remax", "gdpo", "optimal_token_baseline", "tir_optimal_token_baseline"])
@pytest.mark.parametrize("experiment", ["math_nano", "math_nano_async"])
def test_estimators_that_the_trainers_hand_no_inputs_are_refused_by_name(name, experiment):
    with pytest.raises(ValueError, match=rf"^algorithm.adv_estimator: got '{name}', which takes .* hand that to none"):
        advantages(composed(f"algorithm.adv_estimator={name}", experiment=experiment))
    for served in ("grpo", "rloo", "gpg", "reinforce_plus_plus"):
        advantages(composed(f"algorithm.adv_estimator={served}", experiment=experiment))


@pytest.mark.parametrize(
    ("experiment", "override", "words"),
    [
        ("math_nano", "algorithm.use_pf_ppo=true", "use_pf_ppo: got true, but .* under the keys of other episodes; "),
        ("math_nano_async", "algorithm.use_pf_ppo=true", "use_pf_ppo: got true, but verl's V1 trainers write"),
        ("math_nano", "algorithm.pf_ppo.weight_pow=3.0", "weight_pow: got 3.0, but verl's V1 trainers write"),
        ("math_nano", "+trainer.v1.sync.parameter_sync_step=2", "step: got 2, but a synchronous step takes .*; leave"),
        ("math_nano", "+trainer.v1.sync.foo=2", "foo: got 2, but a synchronous step takes its batch as a whole"),
    ],
)
def test_what_the_trainers_would_read_wrongly_is_refused(experiment, override, words):
    with pytest.raises(ValueError, match=words):
        refusals(composed(override, experiment=experiment))


@pytest.mark.parametrize(("experiment", "least"), [("math_nano", 16 * 8), ("math_nano_async", 32 * 9)])
def test_a_queue_without_room_for_the_tasks_in_play_is_refused(experiment, least):
    field = "transfer_queue.backend.SimpleStorage.total_storage_size"
    queue(composed(f"{field}={least}", experiment=experiment))
    with pytest.raises(
        ValueError, match=rf"^{field}: got {least - 1}; allowed: at least {least}, for training alone: 16"
    ):
        queue(composed(f"{field}={least - 1}", experiment=experiment))


def test_a_staleness_that_the_queue_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"got 100000; allowed: at least 144144, .* and 16000 ahead \(.*warmup_batch"):
        queue(composed(f"{WARMUP}=1000", f"{SAMPLER}.max_off_policy_threshold=null"))


def test_an_asynchronous_run_does_not_repeat_and_says_why():
    config = composed()
    assert not repeats(config)
    assert "trainer_mode=colocate_async the clock decides which policy samples a token" in repetition(config)
    with pytest.raises(ValueError, match=r"^run.deterministic: got true, but with .*trainer_mode=colocate_async"):
        deterministic(composed("run.deterministic=true"))
    assert repeats(composed(experiment="math_nano"))
