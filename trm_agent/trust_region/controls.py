"""Rows of the controls: coins, shuffled and inverted decisions, which a criterion has to be better than."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm_agent.trust_region.criterion import Criterion
from trm_fields import OneOf, Setting, Text, refuse

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from trm_agent.core.controls import Sequences

METRICS_FILE = "metrics.jsonl"
QUARTERS = tuple(f"trm/acceptance_length_q{quarter}" for quarter in (1, 2, 3, 4))
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
    "`yoked`: folder of the paired run, whose metrics hold the acceptance of each step and quarter of the lengths.",
)


def turned_round(accepted: Tensor) -> Tensor:
    """Keep what the criterion rejects."""
    return ~accepted


def shuffled(sequences: Sequences, generator: Generator) -> Tensor:
    """Shuffle the criterion's decisions within quarter of the lengths and sign of the advantage."""
    from trm_agent.core.controls import permuted_mask

    return permuted_mask(sequences, generator)


def paired_coin(sequences: Sequences, generator: Generator) -> Tensor:
    """Flip a coin with the paired run's acceptance of the sequence's quarter of the lengths."""
    from trm_agent.core.controls import yoked_mask

    return yoked_mask(sequences, generator)


CONTROLS: dict[str, Criterion] = {
    "inverse": Criterion("what `controlled` rejects", thresholds=(), control=turned_round, settings=(CONTROLLED,)),
    "permuted": Criterion(
        "the decisions of `controlled`, shuffled within quarter of the lengths and sign of A",
        thresholds=(),
        whole_batch=shuffled,
        settings=(CONTROLLED,),
    ),
    "yoked": Criterion(
        "a coin at the acceptance of `yoked_run` in the same step and quarter of the lengths",
        thresholds=(),
        whole_batch=paired_coin,
        settings=(YOKED_RUN,),
    ),
}


def acceptance_of_step(rows: Iterable[Mapping[str, Any]], step: int, folder: str) -> list[float]:
    """Return the paired run's acceptance in a step, of each quarter of the lengths.

    Args:
        rows: of the paired run's `metrics.jsonl`.
        step: of the run that is trained.
        folder: of the paired run, for the message.

    Raises:
        ValueError: the paired run has no such step, or another loss.
    """
    with_acceptance = [row for row in rows if all(isinstance(row.get(name), int | float) for name in QUARTERS)]
    for row in with_acceptance:
        if row.get("step") == step:
            return [float(row[name]) for name in QUARTERS]
    refuse(
        "actor_rollout_ref.actor.policy_loss.trm.yoked_run",
        folder,
        f"a run of the loss trm whose {METRICS_FILE} holds {QUARTERS[0]} to q4 of step {step}",
        "pair it with a run that is as long, or train for no more steps",
        because=f"which has them of {len(with_acceptance)} steps",
    )


def check_paired_run(folder: str | None) -> None:
    """Refuse a paired run without metrics, or one that another process would not find.

    Raises:
        ValueError: none is named, the folder has no metrics file, or its path does not begin at the root.
    """
    file = Path(folder or "") / METRICS_FILE
    if folder is None or not file.is_file():
        reason = f"which holds no {METRICS_FILE}" if folder else "but criterion='yoked' needs it"
        remedy = "train with the criterion first, with the same seed, and give that run's folder"
    elif not file.is_absolute():
        reason, remedy = "which is relative, while another process reads it", f"give {file.parent.absolute()}"
    else:
        return
    refuse(
        "actor_rollout_ref.actor.policy_loss.trm.yoked_run",
        folder,
        f"the folder of a run, with {METRICS_FILE}, as a path from the root",
        remedy,
        because=reason,
    )
