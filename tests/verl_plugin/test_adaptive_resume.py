"""A resumed run reads its thresholds from metrics.jsonl, which knows no infinity."""

import math

import pytest

pytest.importorskip("verl")

from trm_agent.runs.folder import read_metrics
from trm_agent.trust_region.adaptive import AdaptiveThreshold
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.verl_plugin.driver.trainer import MetricsFile


@pytest.mark.parametrize("observed", [math.inf, 0.0123456789, 1e308, 0.1 + 0.2])
def test_a_resumed_run_takes_the_threshold_of_the_live_one(tmp_path, observed):
    trm = TrmConfig(criterion="both", target_acceptance=0.9)
    live = AdaptiveThreshold(trm)
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step, value in enumerate([0.08, observed]):
        row = {"trm/target_threshold": value, "trm/target_threshold_avg": value / 50, "trm/acceptance": 0.5}
        live.observe(row)
        file.log(row, step)
    file.finish()
    assert AdaptiveThreshold(trm, read_metrics(tmp_path)).thresholds == live.thresholds
