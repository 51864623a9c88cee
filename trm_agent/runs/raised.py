"""The exceptions of environments that a run scored 0: the most frequent one of each step, for its screen."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trm_agent.runs.data_text import json_lines, printable

RAISED_FILE = "raised.jsonl"
RAISED = "env/scorer_errors"
EPISODES = "env/num_episodes"
MIN_TOLD_SHARE = 0.01
"""Share of a run's episodes above which its end tells of them once more."""
MAX_CHARACTERS, LAST_CHARACTERS = 400, 160
OUTSIDE = (
    "this looks like a fault outside the model's text: let the environment raise trm_envs.InfrastructureError for it, "
    "which keeps such episodes out of rates and loss (docs/stop_reasons.md)"
)
_TYPE = re.compile(r"\b(?:failed:|raised) ([A-Za-z_][\w.]*)")
_TURN = re.compile(r"^turn \d+: ")
_PLACE = re.compile(r"\(at (\S.*:\d+)\b")
_OUTSIDE_TYPE = re.compile(
    r"(Connect|Timeout|SSL|Socket|Network|HTTP|URL|Proxy)\w*(Error|Exception)$|Timeout$|^(BrokenPipeError|OSError|gaierror)$"
)


@dataclass(frozen=True)
class Raised:
    """The most frequent exception among episodes of a step."""

    step: int
    """The step of training."""
    error: str
    """Type, message and place of its first occurrence."""
    count: int
    """Number of the episodes that raised that type at that place."""


def most_frequent(errors: Sequence[str]) -> tuple[str, int]:
    """Return the first text of the most frequent exception, by type and place, and its number.

    Args:
        errors: at least one; texts in one line, as `scorer_error` has them.
    """
    counts = Counter(map(_kind, errors))
    kind, count = counts.most_common(1)[0]
    return next(error for error in errors if _kind(error) == kind), count


def told_of_errors(errors: Sequence[str]) -> str:
    """Return the end of a warning: the most frequent exception, and the remedy if the outside raised it."""
    return _told(*most_frequent(errors), len(errors))


def write_raised(run_dir: Path, step: int, errors: Sequence[str]) -> None:
    """Append the most frequent exception of a step to the run's folder; nothing without one."""
    if errors:
        with (run_dir / RAISED_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(Raised(step, *most_frequent(errors)))) + "\n")


def read_raised(run_dir: Path) -> dict[int, Raised]:
    """Return the most frequent exceptions by step; a step that was played again has its last."""
    file = run_dir / RAISED_FILE
    rows = [row for _, row, reason in json_lines(file) if not reason] if file.exists() else []
    return {row["step"]: Raised(**row) for row in rows if row.keys() == Raised.__dataclass_fields__.keys()}


def step_warning(row: Mapping[str, Any], raised: Raised | None) -> str:
    """Return the warning about a step's exceptions; empty if there were none.

    Args:
        row: of metrics.jsonl.
        raised: the step's most frequent exception; None where the run's folder does not tell it.
    """
    if not (broken := int(row.get(RAISED) or 0)):
        return ""
    told = "see log.txt" if raised is None else _told(raised.error, raised.count, broken)
    return f"on {broken} episodes the environment raised, which scores 0; {told}"


def run_warning(rows: Sequence[Mapping[str, Any]], raised: Mapping[int, Raised]) -> list[str]:
    """Return a line if an environment raised on more than `MIN_TOLD_SHARE` of a run's episodes.

    Args:
        rows: of metrics.jsonl.
        raised: the most frequent exceptions by step.
    """
    broken = int(sum(row.get(RAISED) or 0 for row in rows))
    episodes = int(sum(row.get(EPISODES) or 0 for row in rows if row.get(RAISED) is not None))
    if broken <= MIN_TOLD_SHARE * episodes:
        return []
    steps = [row["step"] for row in rows if row.get(RAISED)]
    found = [raised[step] for step in steps if step in raised]
    told = "see log.txt"
    if found:
        error, _ = most_frequent([each.error for each in found for _ in range(each.count)])
        count = sum(each.count for each in found if _kind(each.error) == _kind(error))
        told = _told(error, count, broken)
    share = f" ({100 * broken / episodes:.1f} %)" if episodes else ""
    return ["", f"on {broken} of {episodes} episodes{share} the environment raised, which scored 0; {told}"]


def _told(error: str, count: int, broken: int) -> str:
    how_often = "" if count == broken else f"most often ({count}) "
    kind, _ = _kind(error)
    remedy = f"; {OUTSIDE}" if _OUTSIDE_TYPE.search(kind) else ""
    shown = printable(_TURN.sub("", " ".join(error.split())))
    if len(shown) > MAX_CHARACTERS:
        # the place stands at the end
        shown = f"{shown[: MAX_CHARACTERS - LAST_CHARACTERS]} ... {shown[-LAST_CHARACTERS:]}"
    return f"{how_often}{shown}{remedy}"


def _kind(error: str) -> tuple[str, str]:
    """Return type and place of an exception, as far as its text tells them."""
    kind, place = _TYPE.search(error), _PLACE.findall(error)
    return (kind[1] if kind else error, place[-1] if place else "")
