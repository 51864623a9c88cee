"""What is refused with estimator `replayed`, and the memory of recorded distributions."""

from dataclasses import replace
from typing import Any

import pytest

from tests.runs.test_preflight import TRM, composed
from trm_agent.runs import preflight, preflight_model
from trm_agent.runs.recorded_bytes import recorded_bytes, told_records
from trm_agent.trust_region.surroundings import trust_region

REFERENCE = "actor_rollout_ref.ref"
NOT_BYPASSED = "algorithm.rollout_correction.bypass_mode=false"


def replayed(**rollout: int) -> list[str]:
    given = {"top_k": 64, **rollout}
    return [
        f"{TRM}.estimator=replayed",
        *(f"actor_rollout_ref.rollout.{name}={value}" for name, value in given.items()),
    ]


def test_no_more_tokens_are_kept_than_the_vocabulary_has() -> None:
    config = composed(*replayed(top_k=600))
    with pytest.raises(ValueError, match=r"^actor_rollout_ref.rollout.top_k: got 600; allowed: at most the 563 tokens"):
        preflight_model.check_top_k(config, 563)
    preflight_model.check_top_k(composed(*replayed(top_k=563)), 563)


@pytest.mark.parametrize(
    "more",
    [
        [],
        [f"{TRM}.decoupled=true", NOT_BYPASSED],
        ["actor_rollout_ref.actor.entropy_coeff=0.01"],
        ["actor_rollout_ref.actor.use_kl_loss=true"],
        ["algorithm.use_kl_in_reward=true"],
        ["actor_rollout_ref.rollout.top_p=0.9"],
        ["+actor_rollout_ref.rollout.engine_kwargs.vllm.logprobs_mode=processed_logprobs"],
    ],
)
def test_a_rollout_that_is_replayed_may_be_cut_and_all_policies_of_a_step_with_it(more: list[str]) -> None:
    preflight.check(composed(*replayed(), *more))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["actor_rollout_ref.rollout.top_k=-1"],
            r"rollout.top_k: got -1, with .*estimator=replayed.*allowed: 1 or more",
        ),
        (
            ["actor_rollout_ref.rollout.top_k=-1", "actor_rollout_ref.rollout.top_p=0.9"],
            r"rollout.top_k: got -1, with .*estimator=replayed.*allowed: 1 or more",
        ),
        (["actor_rollout_ref.rollout.logprobs_mode=raw_logprobs"], r"rollout.logprobs_mode: got 'raw_logprobs', with"),
        (
            ["+actor_rollout_ref.rollout.engine_kwargs.vllm.logprobs_mode=raw_logprobs"],
            r"vllm.logprobs_mode: got 'raw_logprobs', with .*allowed: processed_logprobs;",
        ),
        (["actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"], r"ulysses_sequence_parallel_size: got 2, "),
        (["actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=2"], r"fsdp_config.ulysses_.*: got 2, "),
        (
            ["algorithm.use_kl_in_reward=true", f"{REFERENCE}.fsdp_config.ulysses_sequence_parallel_size=2"],
            r"ref.fsdp_config.ulysses_.*: got 2, .*allowed: 1;",
        ),
        (
            ["actor_rollout_ref.actor.use_kl_loss=true", f"{REFERENCE}.strategy=megatron"],
            r"ref.strategy: got 'megatron', .*allowed: fsdp or fsdp2;",
        ),
        (
            [f"{TRM}.mask_policy=start_of_step", NOT_BYPASSED],
            r"trm.estimator: got 'replayed', .*mask_policy='start",
        ),
    ],
)
def test_what_is_not_taken_on_the_kept_tokens_is_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        trust_region(composed(*replayed(), *overrides))


@pytest.mark.parametrize("name", ["max_logprobs", "max-logprobs"])
@pytest.mark.parametrize(
    ("asked", "most", "least"),
    [
        ([f"{TRM}.estimator=sampled"], 0, 0),
        ([f"{TRM}.estimator=topk"], 20, 20),
        (replayed(), 96, 96),
        # 32 more than 563 are not there
        (replayed(top_k=563), 563, 563),
        (replayed(top_k=540), 563, 563),
        ([f"{TRM}.estimator=exact"], 563, 563),
        ([f"{TRM}.estimator=exact"], -1, 563),
        # vLLM's own number, and one that Hydra took for a text
        ([f"{TRM}.estimator=topk"], "null", 20),
        (replayed(), "'96'", 96),
    ],
)
def test_an_engine_that_may_tell_fewer_log_probs_than_are_asked_for_is_refused(
    asked: list[str], most: Any, least: int, name: str
) -> None:
    field = f"actor_rollout_ref.rollout.engine_kwargs.vllm.{name}"
    preflight_model.check_told_log_probs(composed(*asked, f"+{field}={most}"), 563)
    if not least:
        return
    config = composed(*asked, f"+{field}={least - 1}")
    trust_region(config)
    estimator = config.actor_rollout_ref.actor.policy_loss.trm.estimator
    because = f"but {TRM}.estimator='{estimator}' asks for more log-probs of each token"
    told = rf"^{field}: got {least - 1}, {because}; allowed: at least {least}, or -1 for all; leave it out"
    with pytest.raises(ValueError, match=told):
        preflight_model.check_told_log_probs(config, 563)


@pytest.mark.parametrize(
    ("estimator", "vocab", "token"),
    [("topk", 50_000, 20 * 12), ("replayed", 50_000, 96 * 12), ("replayed", 70, 70 * 12), ("exact", 563, 563 * 4)],
)
def test_the_memory_of_recorded_distributions_is_told(estimator: str, vocab: int, token: int) -> None:
    config = composed(f"{TRM}.estimator={estimator}", *(replayed()[1:] if estimator == "replayed" else ()))
    found = recorded_bytes(config, vocab)
    assert found is not None
    assert found.token == token
    assert found.step == token * 16 * 8 * config.data.max_response_length
    assert f"{token:,} bytes a token" in str(told_records(config, vocab))
    assert recorded_bytes(composed(), vocab) is None


def test_records_beyond_the_free_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trm_agent.runs.recorded_bytes.free_memory_gib", lambda: 0.01)
    with pytest.raises(ValueError, match=r"trm.estimator: got 'replayed', whose .* records of at most the 0.0 GiB"):
        told_records(composed(*replayed()), 563)
    # all episodes would have to be as long as they may be
    assert told_records(composed(f"{TRM}.estimator=exact"), 563)


def test_tasks_that_are_ahead_of_their_step_are_in_the_queue_too(monkeypatch: pytest.MonkeyPatch) -> None:
    warmup = "trainer.v1.colocate_async.num_warmup_batches"
    synchronous = composed(*replayed())
    ahead = composed(*replayed(), "trainer.v1.trainer_mode=colocate_async", f"{warmup}=0.5")
    found = recorded_bytes(ahead, 563)
    assert found is not None
    # 16 tasks and 8 that are ahead
    assert (recorded_bytes(synchronous, 563), found.queue) == (replace(found, queue=found.step), found.step * 3 // 2)
    monkeypatch.setattr("trm_agent.runs.recorded_bytes.free_memory_gib", lambda: 1.2 * found.step / 2**30)
    assert "ahead" not in str(told_records(synchronous, 563))
    with pytest.raises(ValueError, match=rf"GiB with the tasks that are ahead of theirs; .*train_batch_size, {warmup}"):
        told_records(ahead, 563)
