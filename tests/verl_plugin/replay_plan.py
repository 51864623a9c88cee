"""Which losses are replayed on which ranks; imports nothing heavy, for the test beside the process that does."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trm_agent.trust_region.criteria import CRITERIA

# of a dump
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Ranks:
    """The processes of a replay."""

    world: int
    """Their number."""
    in_sequence: int = 1
    """How many share a sequence (Ulysses)."""

    @property
    def of_data(self) -> int:
        """How many shares the batch has."""
        return self.world // self.in_sequence


PLAN = {
    "1": Ranks(1),
    "2": Ranks(2),
    "4": Ranks(4),
    "ulysses_2": Ranks(2, in_sequence=2),
    "ulysses_2_of_4": Ranks(4, in_sequence=2),
}
# of the dumped episodes
HORIZONS = (1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 8)
# sequences of the batch: one of padding is among them, and 1, 2 and 4 ranks have equal shares
SIZE = len(HORIZONS) + 1
MAX_TOKEN_KL = 0.1
TOP_K = 20
# places of a record of kept sets, and the sequence whose first token fills all of them: its set may be larger
PLACES, CUT_SEQUENCE = TOP_K + 4, 3
ACTOR = "actor_rollout_ref.actor"
_TRM = f"{ACTOR}.policy_loss.trm"
LOSSES = {
    "exact": (f"{_TRM}.estimator=exact", f"{_TRM}.max_token_kl={MAX_TOKEN_KL}"),
    "topk": (
        f"{_TRM}.estimator=topk",
        f"{_TRM}.top_k={TOP_K}",
        f"{_TRM}.criterion=both",
        f"{_TRM}.max_token_kl={MAX_TOKEN_KL}",
        f"{_TRM}.avg_token_kl=0.03",
        f"{ACTOR}.loss_agg_mode=token-mean",
        f"{ACTOR}.entropy_coeff=0.01",
    ),
    "sampled": (
        f"{_TRM}.target_acceptance=0.6",
        f"{_TRM}.max_token_kl={MAX_TOKEN_KL}",
        f"{_TRM}.ratio_truncation=1.05",
        f"{ACTOR}.loss_agg_mode=seq-mean-token-mean",
    ),
    "replayed": (
        f"{_TRM}.estimator=replayed",
        f"{_TRM}.criterion=stop_directional",
        f"{_TRM}.max_token_kl={MAX_TOKEN_KL}",
        f"actor_rollout_ref.rollout.top_k={TOP_K}",
        f"{ACTOR}.entropy_coeff=0.01",
    ),
}


def losses_on(ranks: Ranks) -> list[str]:
    """Name the losses that so many ranks can have: of a sequence that they share none is replayed."""
    return [name for name in LOSSES if name != "replayed" or ranks.in_sequence == 1]


# every criterion that has no loss above: thresholds that some of the sequences or tokens are outside of
_THRESHOLDS = {
    "max_token_kl": MAX_TOKEN_KL,
    "avg_token_kl": 0.008,
    "cumulative_kl": 0.3,
    "length_neutral": 0.02,
    "ratio_deviation": 0.02,
    "random_acceptance": 0.5,
    "yoked_run": "a_run",
}
_MORE = {"permuted": {"estimator": "sampled", "mask_policy": "start_of_step"}}
# criterion -> fields of `TrmConfig`, where not those of the loss "exact"
OF_CRITERIA: dict[str, dict[str, Any]] = {
    name: {"criterion": name, **_THRESHOLDS, **_MORE.get(name, {})} for name in CRITERIA if name not in ("max", "both")
}
# the replays that have them
WITH_CRITERIA = ("1", "2")
# how the engine cuts the batch, where not into micro-batches of three sequences, and what else it is told
PASSES: dict[str, dict[str, Any]] = {
    "sampled": {"use_dynamic_bsz": True, "max_token_len_per_gpu": 900},
    # of a step of its own, whose first update it is
    "yoked": {"trm_step": 2, "trm_paired_acceptance": json.dumps([[0.9, 0.5, 0.5, 0.1]])},
}
