"""The real command on the nano model: vLLM samples, verl's FSDP worker recomputes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.training import environment
from trm_agent.models.nano import NanoSpec, ensure_nano_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


def test_engine_and_trainer_of_the_nano_model_agree_in_float32(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    ensure_nano_model(NanoSpec(), show_progress=False)
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "trm_agent.cli", "numerics", "nano", "--tokens", "1200", "--episodes", "3"]
    done = subprocess.run(
        [*command, "--turn-tokens", "24", "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=450,
        env=environment() | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"[-4000:]
    (pair,) = json.loads(file.read_text())["pairs"]
    assert (pair["engine"], pair["trainer"]) == ("float32", "float32")
    assert pair["all"]["tokens"] > 1000
    assert pair["all"]["mean"] <= 1e-5
    # not the same numbers read twice
    assert pair["all"]["largest"] > 0
    assert (pair["verdict"]["kind"], pair["verdict"]["is_healthy"]) == ("rounding", True)
    assert [each["start"] for each in pair["bins"]] == [0, 512, 1024]
    assert "First to check: nothing" in done.stdout
    assert "trainer float32: " in done.stderr
