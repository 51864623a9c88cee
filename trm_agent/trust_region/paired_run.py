"""The run that `yoked` is paired with: what is read of its metrics, and which runs it cannot repeat."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trm_agent.trust_region.controls import deciding
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.settings import FIELD_PATH
from trm_fields import refuse

logger = logging.getLogger("trm_agent")

METRICS_FILE = "metrics.jsonl"
FIELD = f"{FIELD_PATH}.yoked_run"
QUARTERS = tuple(f"trm/acceptance_length_q{quarter}" for quarter in (1, 2, 3, 4))
REJECTED_BY = "trm/rejected_by_"
_OF_UPDATE = re.compile(r"(trm/acceptance_length_q[1-4])_update_([1-9][0-9]*)")


def of_update(name: str, number: int) -> str:
    """Name a metric of a single update, by its number in the step, from 1."""
    return f"{name}_update_{number}"


def without_lone_update(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the only update of a step has logged by its number: the step's own metrics say the same.

    Args:
        metrics: of a whole step.
    """
    numbers = {name: int(found[2]) for name in metrics if (found := _OF_UPDATE.fullmatch(name))}
    alone = max(numbers.values(), default=1) == 1
    return {name: value for name, value in metrics.items() if not (alone and name in numbers)}


def acceptance_of_step(
    rows: Iterable[Mapping[str, Any]], step: int, num_updates: int, folder: str
) -> list[list[float]]:
    """Return the paired run's acceptance in each update of a step, of each quarter of the lengths.

    Args:
        rows: of the paired run's `metrics.jsonl`.
        step: of the run that is trained.
        num_updates: updates of that step.
        folder: of the paired run, for the message.

    Raises:
        ValueError: the paired run has no such step, never as many updates in one, or another loss.
    """
    with_acceptance = [row for row in rows if _has(row, QUARTERS)]
    for row in with_acceptance:
        if row.get("step") == step:
            found = _of_updates(row)
            if len(found) < num_updates:
                _check_most(max(len(_of_updates(each)) for each in with_acceptance), num_updates, folder)
            return _fitted(found, num_updates, step)
    refuse(
        FIELD,
        folder,
        f"a run of the loss trm whose {METRICS_FILE} holds {QUARTERS[0]} to q4 of step {step}",
        "pair it with a run that is as long, or train for no more steps",
        because=f"which has them of {len(with_acceptance)} steps",
    )


def _of_updates(row: Mapping[str, Any]) -> list[list[float]]:
    """Return the acceptance of each update of a step; a step of one update has it in its own metrics."""
    names = ([of_update(name, number) for name in QUARTERS] for number in itertools.count(1))
    found = [[float(row[name]) for name in each] for each in itertools.takewhile(lambda each: _has(row, each), names)]
    return found or [[float(row[name]) for name in QUARTERS]]


def _check_most(most: int, num_updates: int, folder: str) -> None:
    if most < num_updates:
        refuse(
            FIELD,
            folder,
            f"a run with steps of {num_updates} updates, each with its acceptance "
            f"({of_update(QUARTERS[0], num_updates)})",
            "pair it with a run of the same batch, mini-batches and epochs; one that logged the mean of a step's "
            "updates alone has to be trained again",
            because=f"which has the acceptance of at most {most} in a step",
        )


def _fitted(found: list[list[float]], num_updates: int, step: int) -> list[list[float]]:
    """Return as many as there are updates: a step that lost episodes has fewer than its partner."""
    if len(found) != num_updates:
        logger.warning(
            "trm: step %d has %d updates, and %d in the paired run; update k takes the acceptance of its update k, "
            "the later ones that of its last",
            step,
            num_updates,
            len(found),
        )
    return [found[min(number, len(found) - 1)] for number in range(num_updates)]


def _has(row: Mapping[str, Any], names: Iterable[str]) -> bool:
    return all(isinstance(row.get(name), int | float) for name in names)


def check_paired_run(folder: str | None, num_updates: int = 1) -> None:
    """Refuse a paired run without metrics, one that another process would not find, or one that cannot be repeated.

    The acceptance of a criterion of tokens counts the sequences with a kept token, which are nearly all: a coin at that
    rate would keep everything, whatever the paired run left out.

    Args:
        folder: of the paired run; None where none is named.
        num_updates: updates of a step of the run that is trained.

    Raises:
        ValueError: none is named, the folder has no metrics file, its path does not begin at the root, its criterion
            decides on tokens, or none of its steps had as many updates.
    """
    file = Path(folder or "") / METRICS_FILE
    allowed = f"the folder of a run, with {METRICS_FILE}, as a path from the root"
    if folder is None or not file.is_file():
        reason = f"which holds no {METRICS_FILE}" if folder else "but criterion='yoked' needs it"
        remedy = "train with the criterion first, with the same seed, and give that run's folder"
    elif not file.is_absolute():
        reason, remedy = "which is relative, while another process reads it", f"give {file.parent.absolute()}"
    elif masked := _criterion_of_tokens(file):
        allowed = f"a run of a criterion of sequences: {', '.join(_of_sequences())}"
        reason = f"whose criterion {masked!r} leaves out tokens: its acceptance counts sequences with one that is kept"
        remedy = "pair it with a run of one of these"
    else:
        most = max((len(_of_updates(row)) for row in _rows(file) if _has(row, QUARTERS)), default=num_updates)
        _check_most(most, num_updates, folder)
        return
    refuse(FIELD, folder, allowed, remedy, because=reason)


def _of_sequences() -> list[str]:
    return [name for name, row in CRITERIA.items() if not row.masks_tokens]


def _criterion_of_tokens(file: Path) -> str | None:
    """Name the criterion of a run, from the first row that has one; None if it decides on sequences, or has no name."""
    for row in _rows(file):
        named = [name.removeprefix(REJECTED_BY) for name in row if name.startswith(REJECTED_BY)]
        if named:
            return next((name for name in named if _leaves_out_tokens(deciding(name))), None)
    return None


def _leaves_out_tokens(name: str) -> bool:
    return name in CRITERIA and CRITERIA[name].masks_tokens


def _rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a file; a line that cannot be read is the business of whoever trains with it."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row
