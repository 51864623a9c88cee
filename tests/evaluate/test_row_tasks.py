"""Files of rows as tasks: a problem counts once however often its file has it; results of two scorers stay apart."""

import functools
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.evaluate.evaluation_fakes import environment, plan
from tests.evaluate.test_store import filled, opened
from trm_agent.evaluate.environments import Counts, changed, changes, named
from trm_agent.evaluate.plan import identity
from trm_agent.evaluate.request import Request
from trm_agent.evaluate.rows import with_problems, with_rows
from trm_agent.evaluate.suites import load_suite
from trm_agent.report.evaluation import figures
from trm_agent.report.sources import open_sources
from trm_agent.tasks import make_env
from trm_envs.scoring import SCORER_VERSION

AIME = [{"problem": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(30)]
CODE = [
    {"question": f"Print {number}.", "tests": [{"input": "", "output": f"{number}"}], "hidden_tests": tests}
    for number in range(3)
    for tests in [[{"input": "", "output": f"{number}"}]]
]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def of_file(suite: str, file: str, *settings: str):
    """The environment of a suite that asks the problems of a file."""
    (environment,) = load_suite(suite, file).environments
    wanted = changes(settings, [environment.name])
    return with_problems(changed(environment, wanted), Counts(every_row=True))


REPEATED = {
    "one after the other": lambda rows: [row for row in rows for _ in range(32)],
    "in turn": lambda rows: rows * 32,
    "with other white space": lambda rows: [
        {**row, "problem": row["problem"].replace(" ", " " * (1 + copy % 3)) + "\r\n" * (copy % 2)}
        for copy in range(32)
        for row in rows
    ],
    "with truths written differently": lambda rows: [
        {
            **row,
            "answer": [row["answer"], f"{row['answer']}.0", f" {row['answer']} ", f"\\boxed{{{row['answer']}}}"][
                copy % 4
            ],
        }
        for copy in range(32)
        for row in rows
    ],
}


@pytest.mark.parametrize("how", REPEATED)
def test_thirty_problems_in_960_rows_are_thirty_tasks(tmp_path, how):
    ours = of_file("aime25", write(tmp_path / "rows.jsonl", REPEATED[how](AIME)))
    assert (ours.num_tasks, ours.rows_told) == (30, "960 rows, 30 problems")
    made = make_env(ours.id, None, ours.kwargs)
    told = [made.reset(seed=task.seed, options=task.options)[0] for task in map(ours.task, range(30))]
    assert [" ".join(text.split()) for text in told] == [row["problem"] for row in AIME]
    # the first row of each
    first = [task.options["row"] for task in map(ours.task, range(30))]
    assert first == (list(range(0, 960, 32)) if how == "one after the other" else list(range(30)))
    assert len(plan(environments=(ours,), samples=2).episodes()) == 60


def test_the_hash_is_that_of_the_problems(tmp_path):
    once, repeated, other = (
        of_file("aime25", write(tmp_path / f"{name}.jsonl", rows))
        for name, rows in (("a", AIME), ("b", AIME * 32), ("c", [*AIME[:29], {"problem": "Q", "answer": "1"}]))
    )
    assert once.rows_hash == repeated.rows_hash != other.rows_hash
    settings = [identity(plan(environments=(each,)).config()) for each in (once, repeated, other)]
    assert settings[0] == settings[1] != settings[2]


def test_programs_that_repeat_are_one_task_and_those_with_other_tests_are_not(tmp_path):
    packed = {**CODE[0], "hidden_tests": json.dumps(CODE[0]["hidden_tests"])}
    other = {**CODE[0], "hidden_tests": [{"input": "", "output": "7"}]}
    ours = of_file("livecodebench", write(tmp_path / "rows.jsonl", [*CODE * 4, packed, other]))
    assert (ours.row_numbers, ours.rows_told) == ((0, 1, 2, 13), "14 rows, 4 problems")


def test_a_limit_counts_problems_and_no_more_than_there_are_can_be_asked(tmp_path):
    (ours,) = load_suite("aime25", write(tmp_path / "rows.jsonl", AIME * 32)).environments
    asked = functools.partial(Request, ("nano",), suite="aime25")
    for request, number in ((asked(limit=7), 7), (asked(tasks=30), 30), (asked(), 30)):
        assert with_problems(ours, request.counts).num_tasks == number
    with pytest.raises(ValueError, match=r"--tasks: got 31; .* at most 30, .*960 rows, 30 problems"):
        with_problems(ours, asked(tasks=31).counts)
    with pytest.raises(ValueError, match="--horizons: got 4; allowed: 1"):
        with_problems(ours, asked(horizons=(4,)).counts)


def test_without_a_suite_the_problems_of_the_split_are_asked_once(tmp_path):
    base = named("python_math")
    ours = base.__class__(**{**vars(base), "kwargs": {**base.kwargs, "rows": write(tmp_path / "r.jsonl", AIME * 3)}})
    held_out = with_rows(ours, 100)
    everything = with_rows(ours.__class__(**{**vars(ours), "split": "all"}))
    assert 0 < held_out.num_tasks < everything.num_tasks == 30
    assert set(held_out.row_numbers) < set(everything.row_numbers)
    assert held_out.horizons == (1,)
    assert with_rows(ours, 2).num_tasks == 2
    assert with_rows(base) is base


def test_rows_that_cannot_be_scored_are_refused_or_left_out_by_a_setting(tmp_path):
    path = write(tmp_path / "rows.jsonl", [*AIME, {"problem": "Q", "answer": "\\boxed{1}. No: \\boxed{2}"}])
    with pytest.raises(ValueError, match=r"row 30 .*unscorable=\"drop\""):
        of_file("aime25", path)
    ours = of_file("aime25", path, "unscorable=drop")
    assert ours.rows_told == "31 rows, 30 problems (1 of the rows left out: they cannot be scored)"
    assert ours.num_tasks == 30


def test_a_file_that_changes_while_it_is_played_is_noticed(tmp_path):
    path = write(tmp_path / "rows.jsonl", AIME)
    ours = of_file("aime25", path)
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    assert of_file("aime25", str(link)).rows_hash == ours.rows_hash
    made = make_env(ours.id, None, ours.kwargs)
    made.reset(options=ours.task(0).options)
    write(tmp_path / "rows.jsonl", AIME[1:])
    with pytest.raises(ValueError, match=f"rows_hash: got '{ours.rows_hash}', .* holds other problems now"):
        made.reset(options=ours.task(0).options)


def test_a_folder_of_another_scorer_is_not_continued(tmp_path):
    file = filled(tmp_path / "e", 5)
    config = yaml.safe_load((tmp_path / "e" / "config.yaml").read_text())
    assert config["scorer_version"] == SCORER_VERSION
    for stored, said in (("1", "scorer version 1"), (None, "a scorer whose version was not stored")):
        folder = tmp_path / f"e{stored}"
        shutil.copytree(tmp_path / "e", folder)
        changed = {name: value for name, value in config.items() if name != "scorer_version"}
        (folder / "config.yaml").write_text(yaml.safe_dump(changed | ({"scorer_version": stored} if stored else {})))
        with pytest.raises(ValueError, match=f"{said}, and this is scorer version {SCORER_VERSION}; .*another folder"):
            opened(folder)
        assert (folder / "results.jsonl").read_bytes() == file.read_bytes()


def test_a_result_of_another_scorer_is_no_result_of_the_folder(tmp_path):
    file = filled(tmp_path / "e", 2)
    lines = [json.loads(line) | {"scorer_version": "1"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="line 1: is of scorer version 1, and this is scorer version"):
        opened(tmp_path / "e")


def test_a_task_beyond_the_problems_is_no_result(tmp_path):
    rows = {"rows_hash": "abc", "horizons": (1,), "split": "all"}
    filled(tmp_path / "e", 9, plan(environments=(environment(**rows),)))
    with pytest.raises(ValueError, match=r"has task=\d, and the file has 2 problems"):
        opened(tmp_path / "e", plan(environments=(environment(**rows, row_numbers=(0, 4), num_tasks=2),)))


def old_folder(path: Path, rows: list[dict]) -> Path:
    """An evaluation of three problems in twelve rows, as it was stored before problems were counted."""
    file = path.parent / "rows.jsonl"
    write(file, rows)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    entry = {"name": "python_math", "id": "trm/PythonMath-v0", "module": None, "rows_hash": digest}
    entry["kwargs"] = {"sandbox": "local", "rows": str(file), "horizon": 1}
    path.mkdir()
    config = {"format": "trm-agent evaluation", "version": 1, "samples": 1, "environments": [entry]}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    base = {
        "checkpoint": "a",
        "env": "python_math",
        "sample": 0,
        "seed": 1,
        "stop_reason": "terminated",
        "horizon": None,
    }
    results = [{**base, "task": task, "success": task % 3 == 0, "reward": 1.0} for task in range(12)]
    (path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in results))
    (path / "summary.json").write_text(json.dumps({"results": [{"tasks": 12}], "samples": 1}))
    return path


def test_an_old_folder_is_counted_by_problem_where_its_file_is_there(tmp_path):
    (source,) = open_sources([old_folder(tmp_path / "e", AIME[:3] * 4)])
    (result,) = figures(source)["results"]
    assert (result["tasks"], result["episodes"]) == (3, 12)
    assert result["success"]["value"] == pytest.approx(1 / 3)
    assert source.notes == []
    # an interval as wide as that of three tasks with one sample each
    assert result["success"]["high"] - result["success"]["low"] > 0.5


def test_an_old_folder_without_its_file_says_so_and_stays_readable(tmp_path):
    folder = old_folder(tmp_path / "e", AIME[:3] * 4)
    write(tmp_path / "rows.jsonl", AIME)
    (source,) = open_sources([folder])
    assert figures(source)["results"] == [{"tasks": 12}]
    assert [note for note in source.notes if "count as tasks of their own" in note]


def test_an_old_folder_whose_rows_are_all_different_keeps_its_summary(tmp_path):
    (source,) = open_sources([old_folder(tmp_path / "e", AIME[:12])])
    assert figures(source)["results"] == [{"tasks": 12}]
    assert source.notes == []
