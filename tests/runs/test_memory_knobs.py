"""A run goes on where its memory lies otherwise; what is learned is compared. The GPUs are fake."""

import argparse
import copy
from pathlib import Path
from typing import Any

import pytest

from tests.planning.fake_gpus import fake_gpu, fake_nvidia_smi
from trm_agent.runs.arguments import composed
from trm_agent.runs.compose import compose_run, plain
from trm_agent.runs.defaults import defaults_of
from trm_agent.runs.folder import open_run_folder
from trm_agent.runs.planning import auto
from trm_agent.runs.planning.fit import KNOBS


def on(folder: Path, monkeypatch: pytest.MonkeyPatch, mib: int, root: Path) -> tuple[dict[str, Any], list[str]]:
    """What a bare command composes on a fake machine of eight GPUs, and its overrides."""
    fake_nvidia_smi(folder, monkeypatch, *[fake_gpu(each, total=mib << 20, free=mib << 20) for each in range(8)])
    monkeypatch.setattr(auto, "unreachable", lambda: "")
    overrides = [f"run.root={root}"]
    return plain(composed(argparse.Namespace(schedule=None, task="math"), overrides)), overrides


def opened(config: dict[str, Any], overrides: list[str]) -> tuple[str, tuple[str, ...]]:
    folder = open_run_folder(config, defaults_of(overrides))
    assert folder._lock is not None
    folder._lock.close()
    return folder.state, folder.notes


@pytest.mark.parametrize("mib", [81920, 143771])
def test_the_bare_command_resumes_on_larger_gpus(mib: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = on(tmp_path, monkeypatch, 81559, tmp_path / "runs")
    then, overrides = on(tmp_path, monkeypatch, mib, tmp_path / "runs")
    assert opened(first, [])[0] == "new"
    state, notes = opened(then, overrides)
    assert state == "resumed"
    assert notes[0].startswith("how it lies in memory is of this command, not of its config.yaml: ")
    assert f"hardware.gpu_memory_gib: 79 -> {mib // 1024}" in notes[0]


def test_a_run_from_before_there_was_a_plan_resumes_and_other_lengths_do_not(tmp_path: Path) -> None:
    overrides = ["experiment=math_qwen3_8b", f"run.root={tmp_path}"]
    now = plain(compose_run(overrides))
    old = copy.deepcopy(now)
    del old["hardware"]["gpu_memory_gib"]
    old["hardware"]["env_vars"] = {}
    parts = old["actor_rollout_ref"]
    parts["actor"]["ppo_max_token_len_per_gpu"] = parts["rollout"]["log_prob_max_token_len_per_gpu"] = 36_864
    parts["ref"]["log_prob_max_token_len_per_gpu"] = 36_864
    parts["rollout"]["tensor_model_parallel_size"], parts["rollout"]["gpu_memory_utilization"] = 2, 0.7
    assert opened(old, [])[0] == "new"
    state, notes = opened(now, overrides)
    assert state == "resumed"
    assert f"{KNOBS['tensor_parallel']}: 2 -> 1" in notes[0]
    shorter = copy.deepcopy(now)
    shorter["data"]["max_response_length"] -= 1
    state, notes = opened(shorter, overrides)
    assert state == "new"
    assert "differs in data.max_response_length: 28672 -> 28671" in notes[0]
    narrower = copy.deepcopy(now)
    narrower["actor_rollout_ref"]["rollout"]["max_model_len"] -= 1
    assert "differs in actor_rollout_ref.rollout.max_model_len" in opened(narrower, overrides)[1][0]
