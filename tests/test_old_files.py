"""Today's code reads the files of commit b2ece64: a run's dump and metrics, an evaluation with results and tokens.

The files are those of real runs on a CPU (of metrics.jsonl three rows are kept). They stay for all later changes.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from trm_agent.cli import main
from trm_agent.evaluate.results import read_results
from trm_agent.evaluate.summary import summarise
from trm_agent.report.build import build_report
from trm_agent.report.rows import read_rows
from trm_agent.trust_region.dump import read_dump

OLD = Path(__file__).parent / "old_files"
RUN, EVALUATION = OLD / "run", OLD / "evaluation"
RUN_CONFIG = Path(__file__).parent / "runs" / "fixtures" / "config_b2ece64.yaml"


def test_a_dump_holds_what_its_trust_region_decided():
    dump = read_dump(RUN / "rollouts")
    assert dump.response_mask.shape == (64, 105)
    assert dump.settings["criterion"] == "max"
    log_ratio = np.where(dump.response_mask, dump.log_probs - dump.rollout_log_probs, 0.0)
    kept = (log_ratio**2 / 2).max(-1) <= dump.settings["max_token_kl"]
    assert kept.tolist() == dump.table["accepted"].to_pylist()


def test_a_dump_is_analysed(capsys):
    assert main(["analyze", str(RUN / "rollouts"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_the_episode_of_a_dumped_row_is_known():
    rows = list(read_rows(next((RUN / "rollouts").glob("*.parquet"))))
    assert {row.record["env_id"] for row in rows} == {"trm/ChainMath-v0"}
    for row in rows:
        spans = [(turn["start"], turn["stop"]) for turn in row.record["turns"]]
        sampled = [index for start, stop in spans for index in range(start, stop)]
        assert np.flatnonzero(row.response_mask).tolist() == sampled


def test_results_give_the_figures_that_they_gave():
    rows, rest = read_results(EVALUATION / "results.jsonl")
    assert (len(rows), rest) == (8, b"")
    then = json.loads((EVALUATION / "summary.json").read_text())
    now = summarise(rows, then["samples"], num_resamples=100)
    for key in ("episodes", "infrastructure_failures", "checkpoints", "environments"):
        assert now[key] == then[key]
    old, new = then["results"][0], now["results"][0]
    # intervals are made otherwise now; what was seen is the same
    for key in ("tasks", "episodes", "means", "numbers", "stop_reasons"):
        assert new[key] == old[key], key
    for key in ("value", "num_tasks"):
        assert new["success"][key] == old["success"][key]
        for k, estimate in old["pass_at_k"].items():
            assert new["pass_at_k"][k][key] == pytest.approx(estimate[key])


def test_a_report_shows_both_without_a_complaint(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    shutil.copy(RUN_CONFIG, run / "config.yaml")
    report = build_report([run, EVALUATION], tmp_path / "page.html")
    assert report.num_episodes == report.available == 64 + 1
    # the tokenizers stayed on the machine of then
    assert [note for note in report.notes if "tokenizer" not in note] == []
