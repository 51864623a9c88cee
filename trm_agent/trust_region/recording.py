"""How many of the rollout's log-probs an estimator of divergences needs."""

# of the whole vocabulary: vLLM's own code
ALL = -1
# the estimator that compares both policies on the tokens which the rollout could draw
REPLAYED = "replayed"
# log-probs that are asked for beyond the rollout's `top_k`: tokens that tie for its last place are all kept
TIES = 32


def num_recorded(estimator: str | None, top_k: int, kept: int) -> int:
    """Return the number of log-probs that an estimator needs from the server, which has at most its vocabulary's.

    Args:
        estimator: the estimator of the `trm` loss; None for another loss.
        top_k: of the `trm` loss.
        kept: `top_k` of the rollout: so many tokens, and those that tie with the last, can be drawn; with `top_p` below
            1 no more than these.

    Returns:
        0 for none beyond the sampled token's, `ALL` for the whole vocabulary.
    """
    return {"topk": top_k, "exact": ALL, REPLAYED: kept + TIES}.get(estimator or "", 0)
