"""Recorded log-probs against frequencies: true records pass at the stated rate, planted faults are found."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from trm_agent.trust_region.sampler_check import ALARM, EDGES, Draws, SamplerCheck, check_sampler, selection

VOCAB = 32


def distributions(seed: int, contexts: int, scale: float = 2.0) -> np.ndarray:
    """Probabilities of made-up contexts, sharp and flat, shape (contexts, VOCAB)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(contexts, VOCAB)) * scale * generator.uniform(0.2, 2.0, (contexts, 1))
    return normalised(np.exp(logits - logits.max(axis=1, keepdims=True)))


def normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(axis=1, keepdims=True)


def at_temperature(p: np.ndarray, temperature: float) -> np.ndarray:
    return normalised(p ** (1 / temperature))


def cut(p: np.ndarray, top_p: float) -> np.ndarray:
    """The least set of likely tokens that holds top_p, renormalised."""
    order = np.argsort(-p, axis=1)
    ranked = np.take_along_axis(p, order, axis=1)
    kept = ranked.cumsum(axis=1) - ranked < top_p
    return normalised(np.where(np.take_along_axis(kept, np.argsort(order, axis=1), axis=1), p, 0.0))


def outcome(seed: int, recorded: np.ndarray, sampler: np.ndarray) -> SamplerCheck:
    generator = np.random.default_rng(seed + 10_000)
    drawn = (generator.random((len(sampler), 1)) > sampler.cumsum(axis=1)).sum(axis=1).clip(max=VOCAB - 1)
    top = recorded.argmax(axis=1)
    found = check_sampler(recorded[np.arange(len(top)), top], drawn == top)
    assert found is not None
    return found


def test_a_true_record_is_seldom_called_false():
    # by Markov P(p <= a) <= a, whatever a is; 400 records of 500 tokens
    p = distributions(0, 500)
    values = np.array([outcome(seed, p, p).p_value for seed in range(400)])
    for level in (0.5, 0.1, 0.05, 0.01):
        # three standard deviations of the count above what is promised
        most = 400 * level + 3 * math.sqrt(400 * level * (1 - level))
        assert (values <= level).sum() <= most
    assert not (values < ALARM).any()
    assert 0 < values.min() < values.max() <= 1


def test_evidence_has_the_expectation_one_even_where_an_episode_ends_when_it_likes():
    # one bucket, p = 0.3: it stops at the first draw of the likely token, or after four tokens; sum over all ends
    ends = [([False] * n + [True], 0.7**n * 0.3) for n in range(4)] + [([False] * 4, 0.7**4)]
    assert sum(probability for _, probability in ends) == pytest.approx(1.0)

    def evidence(draws: list[bool]) -> float:
        lambdas = [sign * size for size in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6) for sign in (1, -1)]
        odds = [sum(drawn * scale - math.log(0.7 + 0.3 * math.exp(scale)) for drawn in draws) for scale in lambdas]
        each = [math.exp(value) for value in odds]
        # the bucket and the whole say the same, the other buckets 1
        return (2 * sum(each) + 12 * len(each)) / (14 * len(each))

    assert sum(probability * evidence(draws) for draws, probability in ends) == pytest.approx(1.0)
    for draws, _ in ends:
        found = check_sampler(np.full(len(draws), 0.3), np.array(draws))
        assert found.p_value == pytest.approx(min(1.0, 1 / evidence(draws)))


FAULTS = {
    "a temperature of 0.9 that the record says is 1": lambda p: at_temperature(p, 0.9),
    "a temperature of 1.1 that the record says is 1": lambda p: at_temperature(p, 1.1),
    "a top-p cut at 0.9 after the record": lambda p: cut(p, 0.9),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    p = distributions(1, 20_000)
    sampler = FAULTS[fault](p)
    found = outcome(2, p, sampler)
    assert found.is_false
    assert found.p_value < 1e-9
    more = "1.1" not in fault
    assert ("more often" in found.told()) == more
    assert (found.z > 6) if more else (found.z < -6)
    # and the record of that very sampler is true
    assert not outcome(2, sampler, sampler).is_false


def test_a_fault_in_a_few_contexts_is_found_in_their_bucket():
    # the likely tokens of 0.2 to 0.3 alone are drawn twice as often, 2 % of the tokens
    generator = np.random.default_rng(5)
    p = np.concatenate([np.full(49_000, 0.85), np.full(1_000, 0.25)])
    drawn = generator.random(50_000) < np.where(p > 0.5, p, 0.5)
    found = check_sampler(p, drawn)
    assert found.is_false
    assert [each.low for each in found.buckets] == [0.2, 0.8]
    assert found.buckets[0].z > 10
    assert abs(found.buckets[1].z) < 4


def test_buckets_hold_counts_shares_and_z():
    p = np.array([0.25] * 100 + [1.0] * 10)
    drawn = np.array([True] * 40 + [False] * 60 + [True] * 10)
    found = check_sampler(p, drawn)
    first, last = found.buckets
    assert (first.low, first.high, first.tokens) == (0.2, 0.3, 100)
    assert (first.expected, first.observed) == pytest.approx((0.25, 0.4))
    # (40 - 25) / sqrt(100 * 0.25 * 0.75)
    assert first.z == pytest.approx(15 / math.sqrt(18.75))
    assert (last.low, last.high, last.tokens, last.expected, last.observed, last.z) == (0.99, 1.0, 10, 1.0, 1.0, None)
    assert found.tokens == 110


def test_greedy_play_of_a_certain_record_is_true_and_a_miss_of_it_is_not():
    certain = np.ones(1000)
    assert check_sampler(certain, certain > 0).p_value == 1.0
    assert check_sampler(certain, np.arange(1000) > 20).is_false


def test_nothing_to_test_is_none_and_an_impossible_probability_is_refused():
    assert check_sampler(np.array([]), np.array([], dtype=bool)) is None
    for bad in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="most likely token"):
            check_sampler(np.array([0.5, bad]), np.array([True, False]))
    assert len(EDGES) == 14


@dataclass
class Episode:
    """What `Draws.add` reads: three tokens, of which the second is the environment's."""

    step: int = 1
    record: dict[str, Any] = field(default_factory=lambda: {"task": "t", "timings": {"total": 1.25}})
    response_ids: np.ndarray = field(default_factory=lambda: np.array([3, 9, 4], np.int32))
    response_mask: np.ndarray = field(default_factory=lambda: np.array([True, False, True]))
    rollout_top_ids: np.ndarray | None = field(default_factory=lambda: np.array([3, -1, 5], np.int32))
    rollout_top_log_probs: np.ndarray | None = field(
        default_factory=lambda: np.array([-0.5, np.nan, -0.25], np.float32)
    )


def drawn_in(*episodes: Episode) -> int:
    draws = Draws()
    for episode in episodes:
        draws.add(episode)
    found = draws.check()
    return 0 if found is None else found.tokens


def test_an_episode_counts_once_however_many_updates_dump_it():
    assert drawn_in(Episode(), Episode()) == 2
    # the same tokens of another episode of the task, or of another step, are other draws
    other = Episode(record={"task": "t", "timings": {"total": 1.5}})
    assert drawn_in(Episode(), other, Episode(step=2)) == 6


def test_only_the_models_tokens_with_a_record_are_counted():
    draws = Draws()
    draws.add(Episode())
    (high,), (low,) = ([each for each in draws.check().buckets if each.low == edge] for edge in (0.7, 0.6))
    assert (low.observed, high.observed) == (1.0, 0.0)
    assert low.expected == pytest.approx(math.exp(-0.5))
    assert drawn_in(Episode(rollout_top_ids=None)) == drawn_in(Episode(rollout_top_log_probs=None)) == 0
    assert drawn_in(Episode(record={"task": "t"})) == 0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ""),
        ({"algorithm": {"filter_groups": {"enable": False}}, "env": {"overlong": {"treatment": "keep"}}}, ""),
        ({"algorithm": {"filter_groups": {"enable": True}}}, "algorithm.filter_groups.enable=true"),
        ({"env": {"overlong": {"treatment": "mask"}}}, "env.overlong.treatment=mask"),
        (
            {"trainer": {"v1": {"trainer_mode": "colocate_async", "sampler": {"max_off_policy_strategy": "drop"}}}},
            "trainer.v1.sampler.max_off_policy_strategy=drop",
        ),
        # verl's default, without meaning where steps wait for their own episodes
        ({"trainer": {"v1": {"trainer_mode": "sync", "sampler": {"max_off_policy_strategy": "drop"}}}}, ""),
        ({"algorithm": "text"}, ""),
    ],
)
def test_what_leaves_episodes_out_for_how_they_went_is_named(config, expected):
    assert selection(config) == expected
