"""How each episode of a validation ended, one line per validation: the report pairs the tasks before and after."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

VALIDATIONS_FILE = "validations.jsonl"


def record_validation(
    path: Path, step: int, sources: Sequence[str], tasks: Sequence[str | None], endings: Sequence[str | None]
) -> None:
    """Append a validation: for each source, the tasks of the episodes of each ending.

    Args:
        path: the folder of the run.
        step: the step after which it was.
        sources: the data source of each episode, `h<horizon>` or `greedy_h<horizon>`.
        tasks: the name of each episode's task; None where it was not played.
        endings: how each episode ended, `failures.ending_name`; None where it was not played.
    """
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for source, task, ending in zip(sources, tasks, endings, strict=True):
        if task is not None and ending is not None:
            found[source][ending].append(task)
    with (path / VALIDATIONS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "endings": found}) + "\n")
