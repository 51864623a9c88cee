"""Ranks that cannot share the tokens of a sequence are refused before Ray starts."""

import pytest
from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.preflight_training import batches
from trm_agent.runs.ulysses import check_shared_heads, sequence_parallelism


@pytest.mark.parametrize(
    ("heads", "keys", "size", "allowed"),
    [(14, 2, 4, "1, 2, 14"), (12, 3, 2, "1, 3, 6, 12"), (9, 3, 2, "1, 3, 9"), (4, None, 3, "1, 2, 4")],
)
def test_ranks_that_cannot_share_the_heads_are_refused(heads, keys, size, allowed):
    # a divisor of the heads that divides the key heads or is a multiple of them; without key heads, as many as heads
    shape = {"num_attention_heads": heads, "num_key_value_heads": keys}
    with pytest.raises(ValueError, match=rf"got {size}, with a model of {heads} .* allowed: {allowed}; choose"):
        check_shared_heads(shape, size)
    for able in map(int, allowed.split(", ")):
        check_shared_heads(shape, able)


def run(ranks: int, size: int, padding_removed: bool = True) -> DictConfig:
    actor = {"fsdp_config": {"ulysses_sequence_parallel_size": size}}
    return OmegaConf.create(
        {
            "hardware": {"kind": "cpu"},
            "trainer": {"n_gpus_per_node": ranks, "nnodes": 1},
            "actor_rollout_ref": {"model": {"use_remove_padding": padding_removed}, "actor": actor},
        }
    )


def test_a_size_divides_the_ranks_and_takes_packed_sequences():
    sequence_parallelism(run(4, 2))
    with pytest.raises(ValueError, match="got 2; allowed: sizes that divide the ranks, of which there are 3; lower"):
        sequence_parallelism(run(3, 2))
    with pytest.raises(ValueError, match=r"use_remove_padding: got false, with .*size=2; allowed: true"):
        sequence_parallelism(run(2, 2, padding_removed=False))
    sequence_parallelism(run(3, 1, padding_removed=False))


@pytest.mark.parametrize("is_old_place", [False, True])
def test_devices_that_share_sequences_need_no_sequence_each(is_old_place):
    def of(sharing: int) -> DictConfig:
        size = {"ulysses_sequence_parallel_size": sharing}
        actor = {"ppo_mini_batch_size": 1, "ppo_micro_batch_size_per_gpu": 2, "use_dynamic_bsz": False}
        actor |= size if is_old_place else {"fsdp_config": size}
        parts = {"data": {"train_batch_size": 2}, "actor_rollout_ref": {"rollout": {"n": 2}, "actor": actor}}
        return OmegaConf.merge(run(4, 1), parts, {"algorithm": {"adv_estimator": "grpo"}})

    # of the 2 sequences four devices get both together, two and two one, and four alone not even one
    batches(of(4))
    with pytest.raises(ValueError, match=r"per_gpu: got 2; allowed: a divisor of the 1 seq.* of which 2 share a seq"):
        batches(of(2))
    with pytest.raises(ValueError, match=r"size: got 1, whose 2 sequences cannot be divided over 4 devices;"):
        batches(of(1))
    # which `sequence_parallelism` refuses
    with pytest.raises(ValueError, match="over 4 devices;"):
        batches(of(8))
