"""Compare two runs of one seed: metrics row by row, timings aside, and the tokens of what both have dumped.

python scripts/same_runs.py RUN RUN

Two runs in folders of their own, for example of four steps with every token kept:

    for folder in a b; do
        trm train run.dir=$folder trainer.total_training_steps=4 trainer.test_freq=4 \\
            actor_rollout_ref.actor.policy_loss.dump.every=1 actor_rollout_ref.actor.policy_loss.dump.max_sequences=null
    done
    python scripts/same_runs.py a b

Ends with 1 where something differs, with the first differences.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

from trm_agent.runs.folder import read_metrics

# seconds, what is divided by them, and memory
OF_THE_MACHINE = re.compile(
    r"time|timing_.*|env/(generate|step)_s/.*|perf/(mfu/.*|throughput|time_per_step)|.*perf/.*memory.*|run/tokens_per_s"
)
COLUMNS = ("step", "update", "reward", "prompt_ids", "response_ids", "response_mask", "rollout_log_probs", "log_probs")
SHOWN = 10


def main(arguments: list[str]) -> int:
    """Print how two runs differ; return the exit status."""
    if len(arguments) != 2:
        print("usage: python scripts/same_runs.py RUN RUN", file=sys.stderr)
        return 2
    one, other = map(Path, arguments)
    found = [*differing_metrics(read_metrics(one), read_metrics(other)), *differing_dumps(one, other)]
    for difference in found[:SHOWN]:
        print(difference)
    rows, dumps = len(read_metrics(one)), len(_dumps(one))
    print(f"{len(found)} differences" if found else f"{rows} rows of metrics and {dumps} dumps are equal")
    return bool(found)


def differing_metrics(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[str]:
    """Return a line for each metric that differs, apart from those of the machine.

    Args:
        one, other: the rows of two runs.
    """
    found = [f"{len(one)} rows and {len(other)}"] if len(one) != len(other) else []
    for row, twin in zip(one, other, strict=False):
        for name in sorted(row.keys() | twin.keys()):
            if not OF_THE_MACHINE.fullmatch(name) and row.get(name) != twin.get(name):
                found.append(f"step {row.get('step')}: {name}: {row.get(name)} and {twin.get(name)}")
    return found


def differing_dumps(one: Path, other: Path) -> Iterator[str]:
    """Yield a line for each dump that only one run has, or whose columns differ."""
    files, twins = _dumps(one), _dumps(other)
    for name in sorted(files.keys() ^ twins.keys()):
        yield f"{name}: in one run alone"
    for name in sorted(files.keys() & twins.keys()):
        table, twin = (pyarrow.parquet.read_table(at[name], columns=list(COLUMNS)) for at in (files, twins))
        for column in COLUMNS:
            # as text, in which a NaN equals a NaN
            rows, same = map(str, table[column].to_pylist()), map(str, twin[column].to_pylist())
            number = sum(row != same_row for row, same_row in zip(rows, same, strict=False))
            if number or len(table) != len(twin):
                yield f"{name}: {column}: {number} of {len(table)} and {len(twin)} sequences"


def _dumps(run: Path) -> dict[str, Path]:
    return {path.name: path for path in (run / "rollouts").glob("*.parquet")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
