"""What the driver says of a step whose mask kept nothing, or did not know what to keep."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.trust_region.recording import TIES
from trm_agent.trust_region.settings import FIELD_PATH

logger = logging.getLogger("trm_agent")

# above either a step warns: one token in a thousand is in nearly every sequence of thousands, which a mask may reject
CUT_TOLERANCE, CUT_SEQUENCES_TOLERANCE = 1e-3, 1e-2


def warn_if_all_rejected(metrics: Mapping[str, Any], terms: Sequence[str] = ()) -> None:
    """Warn of a step in which the mask kept nothing.

    Args:
        metrics: see `final_metrics`.
        terms: see `other_terms`.
    """
    if metrics.get("trm/all_rejected", 0) == 1:
        shares = {
            name.removeprefix("trm/rejected_by_"): value
            for name, value in metrics.items()
            if name.startswith("trm/rejected_by_")
        }
        reasons = ", ".join(f"outside {name}: {100 * value:.0f} %" for name, value in shares.items())
        if any(name.startswith("inverse") for name in shares):
            advice = "The criterion that is turned round kept everything."
        else:
            advice = (
                f"Raise the thresholds of {FIELD_PATH}, or look for a mismatch between trainer and rollout in "
                "trm/token_kl_mean_k3 and trm/ppl_gap."
            )
        if terms:
            effect = f"the only gradient was that of the {' and '.join(terms)} term, rejected sequences included"
        else:
            effect = "the policy got no gradient"
        logger.warning("trm: no sequence of this step was accepted (%s), so %s. %s", reasons, effect, advice)


def warn_if_sets_are_cut(metrics: Mapping[str, Any], top_k: int, undecided: str) -> None:
    """Warn of a step in which too many kept sets may be larger than their records.

    Args:
        metrics: see `final_metrics`.
        top_k: of the rollout.
        undecided: the rule for the undecided; `accept` rejects no sequence for a cut set.
    """
    share, of_sequences = metrics.get("trm/kept_set_cut", 0.0), metrics.get("trm/kept_set_cut_sequences", 0.0)
    # a single sequence of a small update is more than any tolerance
    num_cut = of_sequences * metrics.get("trm/num_sequences", 0.0)
    many_sequences = undecided == "reject" and num_cut > 1.5 and of_sequences > CUT_SEQUENCES_TOLERANCE
    if share > CUT_TOLERANCE or many_sequences:
        logger.warning(
            "trm: for %.2g %% of the tokens, in %.2g %% of the sequences, more than %d others tied for the last of "
            "the %d places of actor_rollout_ref.rollout.top_k, so that the set that they were drawn from is not known; "
            "they count as undecided. Sample in a finer number format (actor_rollout_ref.rollout.dtype=float32), or "
            "with another top_k.",
            100 * share,
            100 * of_sequences,
            TIES,
            top_k,
        )
