"""The sampling of tokens, and the seeds that decide them."""

from typing import Any

import pytest

from trm_agent.evaluate.engines.sampling import Sampling, turn_seed


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_bad_sampling_is_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: got .*; allowed: a"):
        Sampling(**values)


def test_turns_episodes_and_bases_have_seeds_of_their_own() -> None:
    seeds = {turn_seed(base, episode, number) for base in range(4) for episode in range(20) for number in range(20)}
    assert len(seeds) == 4 * 20 * 20
    assert all(0 <= seed < 2**62 for seed in seeds)
