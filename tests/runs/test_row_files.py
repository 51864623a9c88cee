"""Files of rows in a training run: refused before Ray, pinned by their hash, and scored by one scorer."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from trm_agent.runs import preflight
from trm_agent.runs.compose import compose_run, plain
from trm_agent.runs.folder import open_run_folder
from trm_agent.runs.row_files import pin_rows
from trm_agent.train import BAD_INPUT, main
from trm_envs.rows import load_math_problems
from trm_envs.scoring import SCORER_VERSION

ROWS = [{"problem": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(30)]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def overrides(path: str) -> list[str]:
    given = [f"env.kwargs.rows={path}", "env.train.horizons=[1]", "env.val.horizons=[1]"]
    return ["experiment=math_nano", "env=python_math", *given]


def test_a_runs_configuration_holds_the_hash_of_its_problems(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS * 4)
    config = compose_run(overrides(path))
    preflight.check(config)
    assert pin_rows(config) == f"{path}: 120 rows, 30 problems"
    assert config.env.kwargs.rows_hash == config.nano.env_kwargs.rows_hash == load_math_problems(path).hash
    # the same file again; another one is refused by name
    assert pin_rows(config)
    write(tmp_path / "rows.jsonl", ROWS)
    assert pin_rows(config)
    write(tmp_path / "rows.jsonl", ROWS[1:])
    with pytest.raises(ValueError, match=r"rows_hash: got .\w{16}., .* holds other problems now"):
        pin_rows(config)


def test_generated_tasks_have_no_hash() -> None:
    config = OmegaConf.create({"env": {"id": "trm/ChainMath-v0", "module": None, "kwargs": {"reveal": "upfront"}}})
    before = plain(config)
    assert pin_rows(config) == ""
    assert plain(config) == before


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([*ROWS, {"problem": "Q", "answer": "The answer is 42."}], ["row 30", "cannot be scored", "unscorable"]),
        pytest.param(
            [*ROWS, {"problem": ROWS[3]["problem"], "answer": "5"}],
            ["rows 3 and 30 ask the same"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [{**row, "problem": row["problem"] + "\nThe last line is Answer: $Answer."} for row in ROWS],
            ["answer_form"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_rows_that_cannot_be_used_are_refused_before_ray(
    tmp_path: Path, capsys: pytest.CaptureFixture, rows: list[dict], told: list[str]
) -> None:
    path = write(tmp_path / "rows.jsonl", rows)
    assert main([*overrides(path), f"run.dir={tmp_path / 'run'}"]) == BAD_INPUT
    error = capsys.readouterr().err
    assert [part for part in [*told, "rows.jsonl", "env.kwargs"] if part not in error] == []
    assert not (tmp_path / "run").exists()


def stored(path: Path, **fields: Any) -> dict[str, Any]:
    return {"run": {"dir": str(path), "root": str(path.parent), "name": "x"}, "seed": 0, **fields}


def test_a_run_of_another_scorer_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    folder = open_run_folder(stored(path, scorer_version="1"))
    assert folder._lock is not None
    folder._lock.close()
    kept = (path / "config.yaml").read_bytes()
    message = f"version 1, and this is scorer version {SCORER_VERSION}; .*another run.dir"
    with pytest.raises(ValueError, match=message):
        open_run_folder(stored(path, scorer_version=SCORER_VERSION))
    assert (path / "config.yaml").read_bytes() == kept
    # without run.dir the same command begins a new run
    unnamed = stored(path, scorer_version=SCORER_VERSION)
    unnamed["run"]["dir"] = None
    assert open_run_folder(unnamed).state == "new"
