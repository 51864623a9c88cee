"""The real command on the nano model: vLLM samples, verl's FSDP worker recomputes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.training import REPOSITORY, environment
from trm_agent.models.nano import NanoSpec, ensure_nano_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
EPISODES = ("--tokens", "1200", "--episodes", "3", "--turn-tokens", "24")


def numerics(tmp_path: Path, module: str, *words: str) -> tuple[dict[tuple[str, str], Any], str, str, int]:
    """Pairs by the number formats of engine and trainer, what was printed, what was told, and the exit status."""
    pytest.importorskip("vllm")
    ensure_nano_model(NanoSpec(), show_progress=False)
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", module, "numerics", "nano", *EPISODES, "--json", str(file), *words],
        capture_output=True,
        text=True,
        timeout=450,
        env=environment() | {"HF_HUB_OFFLINE": "1"},
        cwd=REPOSITORY,
    )
    assert file.exists(), f"{done.stdout}\n{done.stderr}"[-4000:]
    pairs = {(each["engine"], each["trainer"]): each for each in json.loads(file.read_text())["pairs"]}
    return pairs, done.stdout, done.stderr, done.returncode


def test_engine_and_trainer_of_the_nano_model_agree_in_each_number_format(tmp_path: Path) -> None:
    both = ("float32", "bfloat16")
    pairs, out, err, code = numerics(tmp_path, "trm_agent.cli", "--engine", *both, "--trainer", *both)
    assert list(pairs) == [(engine, trainer) for engine in both for trainer in both]
    assert code == 0, out
    pair = pairs["float32", "float32"]
    assert pair["all"]["tokens"] > 1000
    assert pair["all"]["mean"] <= 1e-5
    # not the same numbers read twice
    assert pair["all"]["largest"] > 0
    assert pair["verdict"]["kind"] == "rounding"
    assert [each["start"] for each in pair["bins"]] == [0, 512, 1024]
    for name, rough in pairs.items():
        if name != ("float32", "float32"):
            assert 1e-6 < rough["all"]["kl"] < 1e-3, name
            assert rough["verdict"]["kind"] == "flat", name
    assert out.count("First to check: nothing") == 4
    assert "trainer float32: " in err


def test_a_fault_in_the_trainers_positions_is_named_above_the_noise_of_bfloat16(tmp_path: Path) -> None:
    half = ("--engine", "bfloat16", "--trainer", "bfloat16")
    pairs, out, _, code = numerics(tmp_path, "tests.numerics.planted", *half)
    (pair,) = pairs.values()
    assert (pair["verdict"]["kind"], pair["verdict"]["starts_at"], code) == ("jumps", 512, 1)
    assert pair["bins"][0]["kl"] > 1e-6
    assert "Verdict: jumps at a depth of 512 tokens" in out
    assert "First to check: what begins at that depth on one side alone: position ids" in out
