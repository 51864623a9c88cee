"""Answers drawn from a grammar of values and spellings: no promised spelling refused, no wrong value accepted."""

import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.envs.scoring_grammar import CLASSES
from tests.envs.scoring_numbers import exact
from trm_envs.scoring import Verdict, WorkerPool, score_math

CORPUS = Path(__file__).with_name("scoring_corpus.jsonl")
# TRM_PROPERTY_DRAWS=2000 takes minutes more: after a change of the scorer
NUM_DRAWS = int(os.environ.get("TRM_PROPERTY_DRAWS", "300"))


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pytest.importorskip("math_verify", reason="pip install 'trm-agent[math]'")
    pool = WorkerPool(2)
    yield pool
    pool.close()


def check_exact(seed: int, num_draws: int) -> None:
    closed = WorkerPool(1)
    closed.close()
    rng = random.Random(seed)
    for _ in range(num_draws):
        truth, right, wrong = exact(rng)
        for spelling, verdict in ((right, Verdict.CORRECT), (wrong, Verdict.WRONG)):
            outcome = score_math(f"\\boxed{{{spelling}}}", truth, pool=closed)
            assert outcome.verdict is verdict, (truth, spelling, outcome)


def check_class(pool: WorkerPool, name: str, seed: int, num_draws: int) -> None:
    rng = random.Random(seed)
    draws = [CLASSES[name](rng) for _ in range(num_draws)]

    def failures(draw: tuple[str, str, str]) -> list[object]:
        truth, right, wrong = draw
        outcomes = [
            (s, v, score_math(f"\\boxed{{{s}}}", truth, pool=pool)) for s, v in ((right, "correct"), (wrong, "wrong"))
        ]
        return [
            (truth, spelling, outcome) for spelling, verdict, outcome in outcomes if outcome.verdict.value != verdict
        ]

    with ThreadPoolExecutor(2) as threads:
        failed = [failure for found in threads.map(failures, draws) for failure in found]
    assert not failed, (len(failed), failed[:5])


def check_corpus(pool: WorkerPool, step: int) -> None:
    """Score pairs (truth, another spelling of it) that commit b2ece64 took, of a grammar of right ones."""
    pairs = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()][::step]
    assert len(pairs) > 100
    refused = [pair for pair in pairs if score_math(f"\\boxed{{{pair[1]}}}", pair[0], pool=pool).reward != 1.0]
    assert not refused, refused[:10]


@pytest.mark.slow
def test_right_spellings_of_before_stay_right(pool: WorkerPool) -> None:
    check_corpus(pool, 9)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_right_spellings_of_before_stay_right(pool: WorkerPool) -> None:
    check_corpus(pool, 1)


def test_exact_numbers_in_their_spellings() -> None:
    check_exact(0, 1000)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_exact_numbers_in_their_spellings(seed: int) -> None:
    # 100,000 draws in parts, so that several processes share them
    check_exact(seed, 100_000 // 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_answers_of_each_class(pool: WorkerPool, name: str) -> None:
    check_class(pool, name, 0, 25)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CLASSES)
def test_many_answers_of_each_class(pool: WorkerPool, name: str) -> None:
    check_class(pool, name, 1, NUM_DRAWS)
