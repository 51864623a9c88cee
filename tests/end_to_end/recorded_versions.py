"""Runs whose tokens are of several versions, told apart offline: each token has its recorded version's log-prob."""

import json
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.end_to_end.training import environment
from trm_agent.models.nano import NanoSpec, ensure_nano_model
from trm_agent.runs.folder import saved_steps
from trm_agent.tasks import TRAIN, task_seed

# with SMALL
TASKS_A_STEP = 2


def kill_after_a_checkpoint(given: Sequence[str], run: Path, step: int) -> None:
    """Begin a run, and kill it as soon as the checkpoint of a step is there."""
    driver = subprocess.Popen(given, stdout=subprocess.DEVNULL, env=environment(), cwd=run.parent)
    saved = run / "checkpoints" / "latest_checkpointed_iteration.txt"
    until = time.monotonic() + 300
    while driver.poll() is None and time.monotonic() < until:
        if saved.exists() and int(saved.read_text() or 0) >= step:
            break
        time.sleep(0.1)
    assert driver.poll() is None, "it ended before it could be killed"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert step in saved_steps(run)


def sequences(run: Path) -> list[dict[str, Any]]:
    """The rows of all dumps of a run, which dumps everything."""
    files = sorted((run / "rollouts").glob("*.parquet"))
    return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]


@torch.no_grad()
def assert_recorded_versions_sampled(rows: list[dict[str, Any]], run: Path, steps: int) -> None:
    """Recompute each log-prob in float64 under its recorded version, and under that of its step."""
    policies = [policy(run, version) for version in range(steps)]
    mixed_episodes = mixed_turns = 0
    by_step: list[float] = []
    for row in rows:
        mask, versions = torch.tensor(row["response_mask"]), torch.tensor(row["rollout_versions"])
        assert (versions[~mask] == -1).all()
        assert (versions[mask] >= 0).all()
        assert (versions[mask] < row["step"]).all()
        assert (versions[mask].diff() >= 0).all()
        sampled = torch.tensor(row["rollout_log_probs"], dtype=torch.float64)
        for version in versions[mask].unique().tolist():
            of_version = versions == version
            found = log_probs(policies[version], row)
            # float32 in the engine
            torch.testing.assert_close(found[of_version], sampled[of_version], rtol=1e-5, atol=1e-5)
            if version < row["step"] - 1:
                of_the_step = log_probs(policies[row["step"] - 1], row)
                by_step += (of_the_step - sampled)[of_version].abs().tolist()
        mixed_episodes += len(versions[mask].unique()) > 1
        turns = json.loads(row["episode"])["turns"]
        mixed_turns += any(len(versions[turn["start"] : turn["stop"]].unique()) > 1 for turn in turns)
    assert mixed_episodes > 0
    assert mixed_turns > 0
    # else a wrong version would pass, too
    assert max(by_step) > 1e-2


def policy(run: Path, version: int) -> torch.nn.Module:
    """The policy of a version, from the checkpoint of the step that made it."""
    model = AutoModelForCausalLM.from_pretrained(ensure_nano_model(NanoSpec()), dtype=torch.float64)
    if version:
        file = run / "checkpoints" / f"global_step_{version}" / "actor" / "model_world_size_1_rank_0.pt"
        weights = torch.load(file, weights_only=False)
        local = {name: getattr(value, "_local_tensor", value).double() for name, value in weights.items()}
        model.load_state_dict(local)
    return model.eval()


def log_probs(model: torch.nn.Module, row: dict[str, Any]) -> torch.Tensor:
    """The log-prob of each response token, nats, float64."""
    prompt, response = row["prompt_ids"], row["response_ids"]
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]


def assert_no_task_is_lost_or_trained_on_twice(rows: list[dict[str, Any]], steps: int) -> None:
    """With a threshold of three steps: each task has one step, and those that are due by then have had it."""
    trained = defaultdict(set)
    for row in rows:
        trained[row["task"]].add(row["step"])
    assert {task: found for task, found in trained.items() if len(found) > 1} == {}
    assert len(trained) == TASKS_A_STEP * steps
    # what had been drawn by the third last step, and before the first, has had its turn
    due = [task_seed(0, TRAIN, index) for index in range(TASKS_A_STEP * (steps - 2) + TASKS_A_STEP)]
    assert set(due) <= {json.loads(row["episode"])["seed"] for row in rows}


def assert_metrics_tell_of_lags(rows: list[dict[str, Any]], told: list[dict[str, Any]]) -> None:
    """The metrics of each step are shares of all its tokens and sequences, whichever update they were in."""
    for row in told:
        of_step = [_lags(each) for each in rows if each["step"] == row["step"]]
        tokens, spans = [lag for lags in of_step for lag in lags], [max(lags) - min(lags) for lags in of_step]
        for number in range(4):
            assert row[f"trm/tokens_lag_{number}"] == pytest.approx(_share(tokens, number))
            assert row[f"trm/sequences_span_{number}"] == pytest.approx(_share(spans, number))
        assert row["run/stale_wait_s"] >= 0
        assert row["env/infrastructure_failures"] == 0
    assert any(row.get("trm/tokens_lag_1", 0) > 0 for row in told)
    assert all(0 <= row["trm/acceptance_lag_0"] <= 1 for row in told if "trm/acceptance_lag_0" in row)


def _lags(row: dict[str, Any]) -> list[int]:
    return [row["step"] - 1 - version for version in row["rollout_versions"] if version >= 0]


def _share(numbers: list[int], number: int) -> float:
    """The share of a number, of 3 that of all beyond it too."""
    return sum(min(each, 3) == number for each in numbers) / len(numbers)
