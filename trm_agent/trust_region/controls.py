"""Rows of the controls: coins, shuffled and inverted decisions, which a criterion has to be better than."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trm_agent.trust_region.criterion import FRACTION, Criterion
from trm_fields import OneOf, Setting, Text

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from trm_agent.core.controls import Sequences

# the criteria that decide on whole sequences, and are no control themselves
CONTROLLED = Setting(
    "controlled",
    "max",
    OneOf(("max", "avg", "both", "ln", "ser", "directional", "inward", "negative_only", "prefix_avg")),
    "`inverse`, `permuted`: criterion whose decisions they turn round or shuffle.",
)
YOKED_RUN = Setting(
    "yoked_run",
    None,
    Text(optional=True, filled=True),
    "`yoked`: folder of the paired run, whose metrics hold the acceptance of each update and quarter of the lengths.",
)


def coin(sequences: Sequences, generator: Generator, *, random_acceptance: float) -> Tensor:
    """Keep each sequence with one probability."""
    from trm_agent.core.masks import random_mask

    return random_mask(sequences.lengths > 0, random_acceptance, generator).accepted


def turned_round(accepted: Tensor) -> Tensor:
    """Keep what the criterion rejects."""
    return ~accepted


def shuffled(sequences: Sequences, generator: Generator) -> Tensor:
    """Shuffle the criterion's decisions within quarter of the lengths and sign of the advantage."""
    from trm_agent.core.controls import permuted_mask

    return permuted_mask(sequences, generator)


def paired_coin(sequences: Sequences, generator: Generator) -> Tensor:
    """Flip a coin with the paired run's acceptance of the sequence's quarter of the lengths in the same update."""
    from trm_agent.core.controls import yoked_mask

    return yoked_mask(sequences, generator)


CONTROLS: dict[str, Criterion] = {
    "random": Criterion(
        "a coin at `random_acceptance`",
        thresholds=(Setting("random_acceptance", 0.9, FRACTION, "`random`: share of sequences that it keeps."),),
        whole_batch=coin,
    ),
    "inverse": Criterion("what `controlled` rejects", thresholds=(), control=turned_round, settings=(CONTROLLED,)),
    "permuted": Criterion(
        "the decisions of `controlled`, shuffled within quarter of the lengths and sign of A",
        thresholds=(),
        whole_batch=shuffled,
        settings=(CONTROLLED,),
    ),
    "yoked": Criterion(
        "a coin at the acceptance of `yoked_run` in the same update and quarter of the lengths",
        thresholds=(),
        whole_batch=paired_coin,
        settings=(YOKED_RUN,),
    ),
}
