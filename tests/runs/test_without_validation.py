"""A run without validation is complete: results, report, the same command."""

import json
import time
from pathlib import Path

import pytest

from tests.report.synthetic import write_run
from trm_agent.cli import main
from trm_agent.runs import results
from trm_agent.runs.folder import SUMMARY_FILE
from trm_agent.runs.sessions import begin_session


@pytest.mark.slow
@pytest.mark.parametrize("made_up_for", [False, True])
def test_a_run_without_validation_ends_with_its_summary_its_curves_and_a_report(
    tmp_path: Path, made_up_for: bool
) -> None:
    settings = {"run": {}, "env": {"id": "trm/ChainMath-v0", "module": None, "kwargs": {}}}
    run = write_run(tmp_path / "run", finished=False, config=settings)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bare = [{key: value for key, value in row.items() if "val_" not in key} for row in rows if row["step"] > 0]
    if made_up_for:
        # a stop left the last validation out; the resumed run wrote it in a row of its own
        bare.append({"step": 3, "time": 9.0, "env/val_success/h4": 0.5, "env/val_infrastructure_failures": 0.0})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    begin_session(run, time.time() - 5)
    summary = results.finish(run, 0, [4], time.time(), keep_best="env/val_success/h8")
    assert json.loads((run / SUMMARY_FILE).read_text()) == summary
    assert summary["success"] == {"before": {}, "after": {"4": 0.5} if made_up_for else {}}
    assert len(summary["lacks"]) == (2 if made_up_for else 3)
    assert summary["lacks"][-1].startswith("run.keep_best: no validation gave env/val_success/h8")
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(page)]) == 0
    assert page.stat().st_size > 10_000
