"""The chart by depth with its verdict, the charts beside it, and the table of the sampler's record."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.report.synthetic import episode_row, write_run
from tests.report.test_page import by_name, data_of
from trm_agent.report.build import build_report
from trm_agent.report.curves import charts
from trm_agent.report.depth import depth_charts
from trm_agent.report.sources import open_sources

MEAN_DEPTHS = {64: 90.0, 128: 180.0, 256: 360.0, 512: 720.0}


def run_with(folder: Path, power: float, steps: int = 5, **changes) -> Path:
    """A run whose divergence is a power of the depth, of a level that falls from step to step."""
    write_run(folder)
    rows: list[dict] = [{"step": 0, "env/val_success/h4": 0.5}]
    for step in range(1, steps + 1):
        row: dict = {"step": step, "trm/acceptance": 0.9}
        for first, depth in MEAN_DEPTHS.items():
            row |= {f"trm/num_tokens_depth_{first}": 400.0, f"trm/mean_depth_{first}": depth}
            row[f"trm/token_kl_mean_depth_{first}"] = 1e-4 / step * (depth / 90) ** power
        rows.append({**row, **changes})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(("power", "told"), [(0.1, "Flat (slope 0.10"), (0.6, "Growing with depth (slope 0.60")])
def test_the_chart_says_whether_the_mismatch_grows(tmp_path, power, told):
    (chart,) = depth_charts(open_sources([run_with(tmp_path / "run", power)]))
    assert chart["title"].startswith(f"Does the mismatch grow with depth? {told}")
    assert (chart["name"], chart["log"], chart["log_x"], chart["points"]) == ("by_depth", True, True, True)
    measured, fitted = chart["series"]
    assert measured["x"] == fitted["x"] == list(MEAN_DEPTHS.values())
    # the mean of the steps' levels: (1 + 1/2 + ... + 1/5) / 5
    level = sum(1 / step for step in range(1, 6)) / 5 * 1e-4
    expected = [level * (depth / 90) ** power for depth in MEAN_DEPTHS.values()]
    assert measured["y"] == pytest.approx(expected)
    # of a power law the fit is the law
    assert fitted["y"] == pytest.approx(expected)
    assert fitted["line"]


def test_bins_that_few_steps_have_count_there_alone(tmp_path):
    folder = run_with(tmp_path / "run", 0.0)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows[1:-1]:
        for name in [name for name in row if name.endswith("_512")]:
            del row[name]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (chart,) = depth_charts(open_sources([folder]))
    assert chart["series"][0]["x"] == list(MEAN_DEPTHS.values())
    assert chart["series"][0]["y"][-1] == pytest.approx(1e-4 / 5)


def test_a_mean_over_known_tokens_weighs_as_many_as_it_is_of(tmp_path):
    folder = run_with(tmp_path / "run", 0.0)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # of the first step, whose divergence is the largest, a tenth of the tokens is known
    rows[1]["trm/num_known_tokens_depth_512"] = 40.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (chart,) = depth_charts(open_sources([folder]))
    *others, last = chart["series"][0]["y"]
    assert others == pytest.approx([sum(1e-4 / step for step in range(1, 6)) / 5] * 3)
    assert last == pytest.approx((40 * 1e-4 + sum(400 * 1e-4 / step for step in range(2, 6))) / (40 + 4 * 400))


def test_several_runs_have_a_verdict_each_and_one_from_before_none(tmp_path):
    runs = [run_with(tmp_path / "a", 0.0), run_with(tmp_path / "b", 1.0), write_run(tmp_path / "old")]
    (chart,) = depth_charts(open_sources(runs))
    labels = [(series["run"], series["label"].partition(" (")[0]) for series in chart["series"]]
    assert labels == [(0, "measured: flat"), (0, "fitted"), (1, "measured: growing with depth"), (1, "fitted")]
    assert depth_charts(open_sources(runs[2:])) == []


@pytest.mark.parametrize("bad", [math.nan, "text", None, -1.0, 1e300])
def test_a_number_that_is_none_ends_no_page(tmp_path, bad):
    names = ("num_tokens_depth_64", "mean_depth_128", "token_kl_mean_depth_256")
    folder = run_with(tmp_path / "run", 0.5, **{f"trm/{name}": bad for name in names})
    data = data_of(build_report([folder], tmp_path / "page.html").path)
    assert "by_depth" in by_name(data["charts"])


def test_each_new_metric_has_its_chart(tmp_path):
    signs = {f"trm/{name}_{sign}": 0.5 for name in ("acceptance", "kept_tokens") for sign in ("positive", "negative")}
    signs |= {f"trm/contribution_{sign}{end}": 0.5 for sign in ("positive", "negative") for end in ("", "_masked")}
    sizes = {f"trm/effective_{name}": 0.5 for name in ("tokens", "turns", "sequences")}
    by_span = ("acceptance", "kept_tokens", "sequences", "token_kl_mean", "acceptance_positive", "acceptance_negative")
    spans = {f"trm/{name}_span_{n}": 0.5 for name in by_span for n in (0, 3)}
    found = by_name(charts(open_sources([run_with(tmp_path / "run", 0.0, **signs, **sizes, **spans)])))
    shown = {series["metric"] for chart in found.values() for series in chart["series"] if "metric" in series}
    assert {*signs, *sizes, *spans} <= shown
    # a sign is no criterion, length or lag, and stands in no chart of these
    assert [series["label"] for series in found["acceptance"]["series"]] == ["all sequences"]
    assert len(found["contribution"]["series"]) == 4
    assert [series["label"] for series in found["acceptance_sign"]["series"]] == [
        "negative advantage",
        "positive advantage",
    ]
    assert [series["label"] for series in found["acceptance_sign_span"]["series"]][:2] == [
        "negative advantage, 0 versions apart",
        "negative advantage, 3 versions apart",
    ]
    assert [series["label"] for series in found["token_kl_depth"]["series"]][:2] == [
        "from 64 tokens on",
        "from 128 tokens on",
    ]


def played(number: int, drawn: bool) -> dict:
    """An episode each of whose eight tokens was the most likely one of probability 0.55, or was not."""
    row = episode_row(timings={"total": 1.0 + number})
    mask = row["response_mask"]
    ids = [(token if drawn else token + 1) if own else -1 for token, own in zip(row["response_ids"], mask, strict=True)]
    log_probs = np.where(mask, math.log(0.55), math.nan).tolist()
    return row | {"rollout_top_ids": ids, "rollout_top_log_probs": log_probs, "task": "t"}


@pytest.mark.parametrize(("share", "verdict"), [(0.55, "Nothing speaks against it"), (0.8, "No")])
def test_the_samplers_record_stands_in_a_table(tmp_path, share, verdict):
    run = write_run(tmp_path / "run", [played(number, number < round(60 * share)) for number in range(60)])
    tables = data_of(build_report([run], tmp_path / "page.html").path)["failures"]
    (table,) = [table for table in tables if "recorded log-probs" in table["title"]]
    assert table["title"] == f"Are the recorded log-probs the sampler's own? {verdict}"
    assert [row[:4] for row in table["rows"]] == [["0.5 to 0.6", "480", "55.00 %", f"{100 * share:.2f} %"]]
    assert ("First to check" in table["about"]) == (verdict == "No")


def test_a_run_that_left_episodes_out_is_not_judged_and_a_record_that_is_none_is_noted(tmp_path):
    rows = [played(number, True) for number in range(60)]
    chosen = {"algorithm": {"filter_groups": {"enable": True}}}
    tables = data_of(build_report([write_run(tmp_path / "run", rows, config=chosen)], tmp_path / "page.html").path)[
        "failures"
    ]
    (table,) = [table for table in tables if "recorded log-probs" in table["title"]]
    assert table["title"].endswith("Not judged")
    assert "algorithm.filter_groups.enable=true leaves episodes out" in table["about"]
    for row in rows:
        row["rollout_top_log_probs"] = [1.0] * len(row["response_mask"])
    report = build_report([write_run(tmp_path / "bad", rows)], tmp_path / "page.html")
    assert any("cannot be tested" in note for note in report.notes)
    assert not any("recorded log-probs" in table["title"] for table in data_of(report.path)["failures"])
