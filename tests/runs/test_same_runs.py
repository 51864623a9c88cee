"""Two runs of one seed are compared without timings, and with the tokens that both have kept."""

import json
import math
import runpy
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

ROOT = Path(__file__).parents[2]
script = runpy.run_path(str(ROOT / "scripts" / "same_runs.py"))

ROWS = [
    {"step": 1, "time": 10.0, "timing_s/gen": 3.0, "env/step_s/mean": 0.1, "perf/throughput": 9.0, "env/success": 0.5},
    {"step": 2, "time": 20.0, "actor/perf/max_memory_reserved_gb": 1.0, "env/success": 0.25, "actor/grad_norm": None},
]


def run(folder: Path, rows: list[dict], tokens: list[int]) -> Path:
    (folder / "rollouts").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {name: [[math.nan, 1.0]] for name in script["COLUMNS"]} | {"response_ids": [tokens]}
    pyarrow.parquet.write_table(pyarrow.table(values), folder / "rollouts" / "step_1.parquet")
    return folder


def compare(*runs: Path) -> int:
    return script["main"]([str(path) for path in runs])


def test_runs_that_differ_in_time_and_memory_alone_are_equal(tmp_path, capsys):
    slower = [
        {key: 7.0 if script["OF_THE_MACHINE"].fullmatch(key) else value for key, value in row.items()} for row in ROWS
    ]
    assert slower != ROWS
    assert compare(run(tmp_path / "a", ROWS, [1, 2]), run(tmp_path / "b", slower, [1, 2])) == 0
    assert capsys.readouterr().out == "2 rows of metrics and 1 dumps are equal\n"


@pytest.mark.parametrize(
    ("rows", "tokens", "told"),
    [
        ([ROWS[0], ROWS[1] | {"env/success": 0.26}], [1, 2], "step 2: env/success: 0.25 and 0.26"),
        ([ROWS[0] | {"new": 1}, ROWS[1]], [1, 2], "step 1: new: None and 1"),
        (ROWS[:1], [1, 2], "2 rows and 1"),
        (ROWS, [1, 3], "step_1.parquet: response_ids: 1 of 1 and 1 sequences"),
    ],
)
def test_what_differs_is_named(tmp_path, capsys, rows, tokens, told):
    assert compare(run(tmp_path / "a", ROWS, [1, 2]), run(tmp_path / "b", rows, tokens)) == 1
    assert told in capsys.readouterr().out


def test_a_dump_of_one_run_alone_and_a_lone_argument_are_told(tmp_path, capsys):
    one, other = run(tmp_path / "a", ROWS, [1]), run(tmp_path / "b", ROWS, [1])
    (other / "rollouts" / "step_1.parquet").unlink()
    assert compare(one, other) == 1
    assert "step_1.parquet: in one run alone" in capsys.readouterr().out
    assert compare(one) == 2
