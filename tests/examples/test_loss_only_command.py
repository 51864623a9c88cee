"""The example's command: what it refuses before Ray, and two steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl")

from .test_loss_only import EXAMPLE, LOSS, REPOSITORY

pytestmark = pytest.mark.slow


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "envs")])}
    command = [sys.executable, str(EXAMPLE), *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=folder, env=env)


@pytest.mark.timeout(120)
def test_a_refusal_ends_verls_command_before_ray(tmp_path):
    done = run(tmp_path, f"{LOSS}.trm.estimator=exact")
    assert done.returncode != 0
    assert "allowed: trm_env" in done.stderr
    assert "ray init kwargs" not in done.stdout


@pytest.mark.timeout(600)
def test_two_steps_on_a_cpu(tmp_path):
    done = run(tmp_path, f"{LOSS}.dump.every=1", f"{LOSS}.trm.target_acceptance=0.9")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    folder = tmp_path / "runs" / "loss_only"
    rows = [json.loads(line)["data"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert row["trm/num_sequences"] == 8
        assert 0 <= row["trm/acceptance"] <= 1
        assert row["trm/max_token_kl"] > 0
        # a model that knows nothing may earn the same in each episode of a task
        assert (row["actor/grad_norm"] > 0) == (row["critic/advantages/max"] > 0)
        assert not [name for name in row if "TRM/" in name or name.startswith("actor/trm")]
    # two updates a step
    assert len(list((folder / "checkpoints" / "rollouts").iterdir())) == 4
