"""The real command on the nano model: vLLM samples, verl's FSDP worker recomputes, and so does a second vLLM."""

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


def numerics(tmp_path: Path, module: str, *words: str) -> tuple[dict[tuple[str, str, str], Any], str, str, int]:
    """Pairs by engine, other side and its number format, what was printed, what was told, and the exit status."""
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
    sides = ("trainer", "second_engine")
    written = json.loads(file.read_text())["pairs"]
    pairs = {(each["engine"], side, each[side]): each for each in written for side in sides if side in each}
    return pairs, done.stdout, done.stderr, done.returncode


def test_engines_and_trainer_of_the_nano_model_agree_in_each_number_format(tmp_path: Path) -> None:
    both = ("float32", "bfloat16")
    words = ("--engine", *both, "--trainer", *both, "--second-engine", "float32")
    pairs, out, err, code = numerics(tmp_path, "trm_agent.cli", *words)
    others = (("trainer", "float32"), ("trainer", "bfloat16"), ("second_engine", "float32"))
    assert list(pairs) == [(engine, *other) for engine in both for other in others]
    assert code == 0, out
    for side in ("trainer", "second_engine"):
        pair = pairs["float32", side, "float32"]
        assert pair["all"]["tokens"] > 1000
        assert pair["all"]["mean"] <= 1e-5
        assert pair["verdict"]["kind"] == "rounding"
        assert [each["start"] for each in pair["bins"]] == [0, 512, 1024]
    # not the same numbers read twice; a second engine may well agree to the bit
    assert pairs["float32", "trainer", "float32"]["all"]["largest"] > 0
    for (engine, side, other), rough in pairs.items():
        if (engine, other) != ("float32", "float32"):
            assert 1e-6 < rough["all"]["kl"] < 1e-3, (engine, side, other)
            assert rough["verdict"]["kind"] == "flat", (engine, side, other)
    assert out.count("First to check: nothing") == 6
    assert "trainer float32: " in err
    assert "second engine float32: " in err


def test_a_fault_in_positions_is_named_in_float32_and_above_the_noise_of_bfloat16(tmp_path: Path) -> None:
    words = ("--engine", "float32", "--trainer", "float32", "bfloat16", "--second-engine", "float32")
    pairs, out, _, code = numerics(tmp_path, "tests.numerics.planted", *words)
    assert len(pairs) == 3
    assert code == 1
    for each, pair in pairs.items():
        assert (pair["verdict"]["kind"], pair["verdict"]["starts_at"]) == ("jumps", 512), each
        # before it, rounding alone or the noise of bfloat16
        assert (pair["bins"][0]["kl"] > 1e-6) == (each[-1] == "bfloat16"), each
    assert out.count("Verdict: jumps at a depth of 512 tokens") == 3
    assert out.count("First to check: what begins at that depth on one side alone: position ids") == 3
