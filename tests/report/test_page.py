"""Curves, tables, configuration differences, the page as text, the command and --watch."""

import argparse
import json
import math
import re
import webbrowser
from pathlib import Path

import pytest
import yaml

from tests.report.synthetic import ATTACK, episode_row, write_evaluation, write_run, write_tokenizer
from trm_agent.cli import main
from trm_agent.commands import report as command
from trm_agent.report.build import build_report, embedded
from trm_agent.report.curves import charts
from trm_agent.report.evaluation import evaluation_charts, evaluation_tables, figures
from trm_agent.report.overview import ABSENT, cards, differences
from trm_agent.report.sources import open_sources
from trm_agent.report.watch import watch
from trm_agent.runs.rates import wilson


def by_name(found: list[dict]) -> dict[str, dict]:
    return {chart["name"]: chart for chart in found}


def data_of(page: Path) -> dict:
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    assert text
    return json.loads(text.group(1))


def arguments(*texts: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(), "")
    return parser.parse_args(["report", *texts])


def test_curves_hold_the_metrics_of_every_run_with_their_steps(tmp_path) -> None:
    found = by_name(charts(open_sources([write_run(tmp_path / "a"), write_run(tmp_path / "b")])))
    series = found["token_kl"]["series"]
    assert [(entry["run"], entry["label"]) for entry in series] == [(0, "mean"), (1, "mean")]
    assert (series[0]["x"], series[0]["y"]) == ([1, 2, 3], [0.1, 0.01, 0.001])


def test_validation_has_the_wilson_interval_of_its_episodes(tmp_path) -> None:
    entry = by_name(charts(open_sources([write_run(tmp_path / "a")])))["validation"]["series"][0]
    low, high = wilson(0.25, 64)
    assert (entry["label"], entry["x"]) == ("horizon 4", [0, 3])
    assert entry["low"] == [low, low]
    assert entry["high"] == [high, high]


def test_a_chart_without_data_is_absent_and_a_number_that_is_not_finite_a_gap(tmp_path) -> None:
    folder = write_run(tmp_path / "a")
    rows = [
        {"step": 1, "trm/ppl_gap": math.inf},
        {"step": 2, "trm/ppl_gap": 0.5},
        {"step": 3, "env/turns/mean": math.nan},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = by_name(charts(open_sources([folder])))
    assert found.keys() == {"ppl_gap"}
    assert found["ppl_gap"]["series"][0]["y"] == [None, 0.5]


def test_a_metrics_line_that_was_cut_is_left_out(tmp_path) -> None:
    folder = write_run(tmp_path / "a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "trm/acc')
    assert [row["step"] for row in open_sources([folder])[0].metrics] == [0, 1, 2, 3]


def test_only_the_fields_that_differ_are_listed(tmp_path) -> None:
    first = write_run(tmp_path / "a", config={"x": {"same": 1, "other": 0.5}, "run": {"dir": "a"}})
    second = write_run(tmp_path / "b", config={"x": {"same": 1, "other": None}, "run": {"dir": "b"}, "new": [1]})
    (found,) = differences(open_sources([first, second]))
    assert found["rows"] == [["new", ABSENT, "[1]"], ["x.other", "0.5", "null"]]


def test_a_card_tells_commit_seed_steps_and_wall_time(tmp_path) -> None:
    (card,) = cards(open_sources([write_run(tmp_path / "a")]))
    facts = dict(card["facts"])
    assert (facts["commit"], facts["seed"], facts["steps"], facts["wall time"]) == ("0123abc", "0", "3", "1 min 15 s")
    assert card["state"] == "finished"


def test_runs_of_one_name_keep_apart(tmp_path) -> None:
    sources = open_sources([write_run(tmp_path / "x" / "run"), write_run(tmp_path / "y" / "run")])
    assert [source.label for source in sources] == ["x/run", "y/run"]


@pytest.mark.parametrize("finished", [True, False])
def test_an_evaluation_has_intervals_by_horizon_and_a_comparison(tmp_path, finished: bool) -> None:
    sources = open_sources([write_evaluation(tmp_path / "eval", finished=finished)])
    found = [figures(source) for source in sources]
    chart = by_name(evaluation_charts(found))["evaluation"]
    assert [(entry["label"], entry["x"]) for entry in chart["series"]] == [("a, chain", [4, 8]), ("b, chain", [4, 8])]
    assert chart["series"][0]["y"] == pytest.approx([1 / 3, 0.0])
    assert 0 < chart["series"][0]["high"][1] < 1
    success, _, comparison = evaluation_tables(sources, found)
    assert success["rows"][0][:5] == ["a", "chain", "all", "6", "12"]
    assert success["rows"][0][5].startswith("16.7 [")
    # 5 of 6 tasks better: 83.3 points
    assert comparison["rows"][0][5].startswith("+83.3 [")
    assert len(data_of(build_report([tmp_path / "eval"], tmp_path / "page.html").path)["tables"]) == 3


def test_nothing_in_the_data_can_end_its_element() -> None:
    text = embedded({"x": f"<!--{ATTACK}&"})
    assert not set("<>&") & set(text)
    assert json.loads(text)["x"] == f"<!--{ATTACK}&"


def test_the_page_names_what_it_lacks(tmp_path) -> None:
    folder = write_run(tmp_path / "a", [episode_row()])
    (folder / "rollouts" / "step_000009.parquet").write_text("no parquet")
    report = build_report([folder], tmp_path / "page.html")
    assert report.num_episodes == 1
    assert any("step_000009" in note for note in report.notes)
    assert any("as ids" in note for note in report.notes)
    assert data_of(report.path)["notes"] == report.notes


def test_a_run_without_a_step_is_noted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 0\n")
    notes = build_report([folder], tmp_path / "page.html").notes
    assert notes == ["run: no step is recorded: the run has not come to its first, or ended before it"]
    (folder / "metrics.jsonl").write_text('{"step": 1, "time": 0.0, "env/success": 0.5}\n')
    assert not any("no step" in note for note in build_report([folder], tmp_path / "page.html").notes)


def test_a_tokenizer_is_found_in_the_checkpoint_and_a_given_one_goes_first(tmp_path) -> None:
    folder = write_run(tmp_path / "a", [episode_row()])
    write_tokenizer(folder / "checkpoints" / "global_step_3" / "actor" / "huggingface")
    assert build_report([folder], tmp_path / "page.html").notes == []
    evaluation = write_evaluation(tmp_path / "eval")
    config = yaml.safe_load((evaluation / "config.yaml").read_text())
    config["checkpoints"] = [{"label": "a", "source": f"start:{folder}", "path": None}]
    (evaluation / "config.yaml").write_text(yaml.safe_dump(config))
    assert build_report([evaluation], tmp_path / "page.html").notes == []
    other = write_run(tmp_path / "b", [episode_row()])
    given = write_tokenizer(tmp_path / "tokenizer")
    assert build_report([other], tmp_path / "page.html", tokenizer=given).notes == []
    assert build_report([other], tmp_path / "page.html").notes != []


def test_a_run_in_progress_an_empty_one_and_one_without_rollouts_have_pages(tmp_path) -> None:
    going = write_run(tmp_path / "going", finished=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.yaml").write_text("seed: 1")
    report = build_report([going, empty], tmp_path / "page.html")
    data = data_of(report.path)
    assert [run["state"] for run in data["runs"]] == ["in progress or interrupted", "empty"]
    assert data["episodes"]["id"] == []
    assert not report.finished


@pytest.mark.parametrize("name", ["missing", "file", "folder"])
def test_what_is_no_run_is_refused_by_name(tmp_path, name: str) -> None:
    path = tmp_path / name
    if name == "file":
        path.write_text("x")
    if name == "folder":
        path.mkdir()
    with pytest.raises(ValueError, match=rf"{name}: .*allowed: the folder of a run"):
        build_report([path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_bad_options_are_refused(tmp_path) -> None:
    folder = write_run(tmp_path / "a")
    with pytest.raises(ValueError, match="max_episodes: got -1"):
        build_report([folder], tmp_path / "page.html", max_episodes=-1)
    with pytest.raises(ValueError, match="no tokenizer"):
        build_report([folder], tmp_path / "page.html", tokenizer=tmp_path)
    with pytest.raises(ValueError, match="given twice"):
        build_report([folder, folder], tmp_path / "page.html")
    with pytest.raises(ValueError, match="is a folder"):
        build_report([folder], tmp_path)
    with pytest.raises(ValueError, match="--watch: got 0"):
        command.run(arguments(str(folder), "--watch", "0"))


def test_the_command_writes_into_the_run_and_of_several_into_this_folder(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = write_run(tmp_path / "a", [episode_row()]), write_run(tmp_path / "b")
    assert command.run(arguments(str(first))) == 0
    assert (first / "report.html").exists()
    assert command.run(arguments(str(first), str(second))) == 0
    assert (tmp_path / "report.html").exists()
    assert "1 episodes" in capsys.readouterr().out
    assert not list(tmp_path.rglob(".report.html*"))


def test_watching_writes_after_every_change_and_ends_with_the_summary(tmp_path) -> None:
    folder = write_run(tmp_path / "a", finished=False)
    page = tmp_path / "page.html"
    refreshes, looks = [], []

    def build():
        report = build_report([folder], page, reload_seconds=5)
        refreshes.append('<meta http-equiv="refresh"' in page.read_text())
        return report

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            with (folder / "metrics.jsonl").open("a") as file:
                file.write('{"step": 4}\n')
        if len(looks) == 4:
            (folder / "summary.json").write_text("{}")

    watch([folder], 5, build, lambda report: None, sleep)
    # the first page, one after the new row, one after the summary; the last one does not reload itself
    assert refreshes == [True, True, False]
    assert looks == [5] * 4


def test_a_browser_is_opened_where_there_is_one_else_the_page_is_named(tmp_path, monkeypatch, capsys) -> None:
    run = write_run(tmp_path / "run")
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address) or True)
    monkeypatch.setenv("DISPLAY", ":0")
    assert main(["report", str(run), "--open"]) == 0
    assert asked == [(run / "report.html").as_uri()]
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    capsys.readouterr()
    assert main(["report", str(run), "--open"]) == 0
    assert len(asked) == 1
    assert "no browser could be opened here" in capsys.readouterr().out
