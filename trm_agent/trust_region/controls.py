"""Rows of the controls: coins, shuffled and inverted decisions, which a criterion has to be better than."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trm_agent.trust_region.criterion import FRACTION, Criterion
from trm_fields import OneOf, Setting, Text

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from trm_agent.core.controls import Sequences

# the criteria that look at both policies, by what they decide on
OF_SEQUENCES = ("max", "avg", "both", "ln", "ser", "directional", "inward", "negative_only", "prefix_avg")
OF_TOKENS = ("token", "stop", "stop_directional", "stop_cumulative", "prefix", "opsm")
CONTROLLED = Setting(
    "controlled",
    "max",
    OneOf((*OF_SEQUENCES, *OF_TOKENS)),
    "`inverse`: criterion whose decisions it turns round, on sequences or on tokens; `permuted`: one that decides on "
    "sequences, whose decisions it shuffles.",
)
YOKED_RUN = Setting(
    "yoked_run",
    None,
    Text(optional=True, filled=True),
    "`yoked`: folder of the paired run, whose metrics hold the acceptance of each update and quarter of the lengths.",
)

_OF = "_of_"


def coin(sequences: Sequences, generator: Generator, *, random_acceptance: float) -> Tensor:
    """Keep each sequence with one probability."""
    from trm_agent.core.masks import random_mask

    return random_mask(sequences.lengths > 0, random_acceptance, generator).accepted


def turned_round(kept: Tensor) -> Tensor:
    """Keep what the criterion leaves out, sequences or tokens."""
    return ~kept


def shuffled(sequences: Sequences, generator: Generator) -> Tensor:
    """Shuffle the criterion's decisions within quarter of the lengths and sign of the advantage."""
    from trm_agent.core.controls import permuted_mask

    return permuted_mask(sequences, generator)


def paired_coin(sequences: Sequences, generator: Generator) -> Tensor:
    """Flip a coin with the paired run's acceptance of the sequence's quarter of the lengths in the same update."""
    from trm_agent.core.controls import yoked_mask

    return yoked_mask(sequences, generator)


def reason_of_tokens(control: str, controlled: str) -> str:
    """Name the reason of a control that decides on tokens: the metrics of a run tell by it that it does."""
    return f"{control}{_OF}{controlled}"


def deciding(reason: str) -> str:
    """Return the criterion that a reason is about, of a control that decides on tokens the controlled one."""
    return reason.rpartition(_OF)[2]


CONTROLS: dict[str, Criterion] = {
    "random": Criterion(
        "a coin at `random_acceptance`",
        thresholds=(Setting("random_acceptance", 0.9, FRACTION, "`random`: share of sequences that it keeps."),),
        whole_batch=coin,
    ),
    "inverse": Criterion(
        "what `controlled` leaves out, tokens if it decides on tokens",
        thresholds=(),
        control=turned_round,
        settings=(CONTROLLED,),
    ),
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
