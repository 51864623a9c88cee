"""What the dump of a replayed rollout shows of the divergences that its run has logged."""

from pathlib import Path

from trm_agent.trust_region.dump import Dump, read_dump
from trm_agent.trust_region.recomputation import recompute


def checked_dump(run: Path, fewest_tokens: int) -> Dump:
    """Return a run's dump, whose KL is that of both engines' truncated distributions at every token.

    Args:
        run: its folder; it dumps the distributions.
        fewest_tokens: that it has more of.
    """
    dump = read_dump(run / "rollouts")
    assert dump.settings["estimator"] == "replayed"
    tokens = dump.response_mask.sum()
    assert tokens > fewest_tokens
    again = recompute(dump)
    assert again is not None
    # nothing is known of a token whose set may be cut: of a thousand one at the most
    assert again["tokens"] >= 0.999 * tokens
    # |difference| <= 1e-6 + 1e-3 KL
    assert again["kl_beyond_a_thousandth"] <= 1e-6
    assert again["tv_difference"] < 1e-6
    return dump
