"""Solver episodes show what they showed."""

import pytest

from tests.golden import episodes, stored

GOLDEN = stored.read("episodes")
QUICK = ("trm/ChainMath-v0", "trm/LongExecution-v0")
NEEDS = {"trm/ReasoningGym-v0": "reasoning_gym"}


def assert_equal(env_id: str) -> None:
    pytest.importorskip(NEEDS.get(env_id, "gymnasium"))
    played = episodes.played(env_id)
    differing = {
        seed: (GOLDEN[env_id].get(seed), told) for seed, told in played.items() if told != GOLDEN[env_id].get(seed)
    }
    assert not differing, f"{env_id}: seed: (golden, now): {differing}; see tests/golden/make.py"


def test_every_environment_has_its_episodes() -> None:
    assert sorted(GOLDEN) == sorted(episodes.all_ids()), "run tests/golden/make.py episodes"


@pytest.mark.parametrize("env_id", QUICK)
def test_episodes_are_what_they_were(env_id: str) -> None:
    assert_equal(env_id)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", sorted(GOLDEN.keys() - set(QUICK)))
def test_episodes_that_run_programs_are_what_they_were(env_id: str) -> None:
    assert_equal(env_id)
