"""The kit of checks for a GPU: what it keeps, what it prints, and how a check ends."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_runs
from benchmarks.gpu import Check, Options
from benchmarks.gpu_figures import Place
from trm_agent.runs.compose import compose_run

REPOSITORY = Path(__file__).resolve().parent.parent


def options(folder: Path, **changes) -> Options:
    return Options(**{"out": folder / "gpu.json", "seconds": 100.0, "small": True, "again": False, **changes})


def result(*figures, state="done") -> dict:
    return {"state": state, "seconds": 1.0, "small": False, "figures": list(figures), "log": "gpu-nano.log"}


def figure(value, **bounds) -> dict:
    return {"name": "rise", "value": value, "unit": "points", "at_least": None, "at_most": None, **bounds}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (figure(19.9, at_least=20.0), "at least 20: FAILS"),
        (figure(20.0, at_least=20.0), "at least 20: holds"),
        (figure(45.1, at_most=45.0), "at most 45: FAILS"),
        (figure(45.0, at_most=45.0), "at most 45: holds"),
    ],
)
def test_the_table_says_whether_a_bound_holds(row, told) -> None:
    assert gpu.as_table({"nano": result(row)}).splitlines()[1].endswith(told)


def test_a_check_without_figures_has_a_line_that_names_its_log() -> None:
    table = gpu.as_table({"nano": result(state="failed"), "loss": result(figure(1.0))})
    assert re.search(r"^nano +failed after 1 s; see gpu-nano.log$", table, re.M)
    assert "loss" in table


def test_a_check_that_the_file_holds_is_not_run_again(tmp_path, monkeypatch) -> None:
    ran = []
    monkeypatch.setattr(gpu, "run_alone", lambda check, limit_s, given: ran.append(check.name) or result())
    (tmp_path / "gpu.json").write_text(json.dumps({"nano": result(figure(1.0))}))
    checks = [Check("nano", "", 10), Check("loss", "", 10)]
    found = gpu.run(checks, options(tmp_path))
    assert ran == ["loss"]
    assert json.loads((tmp_path / "gpu.json").read_text()) == found == {"nano": result(figure(1.0)), "loss": result()}
    gpu.run(checks, options(tmp_path, again=True))
    assert ran == ["loss", "nano", "loss"]


def test_no_check_begins_when_the_time_is_over(tmp_path, monkeypatch) -> None:
    limits = []
    monkeypatch.setattr(gpu, "run_alone", lambda check, limit_s, given: limits.append(limit_s) or result())
    gpu.run([Check("nano", "", 240), Check("loss", "", 60)], options(tmp_path, seconds=gpu.GRACE_S - 1))
    assert limits == []
    # what is left is the limit where that is less than the check's own
    gpu.run([Check("nano", "", 240)], options(tmp_path, seconds=100.0))
    assert limits == [pytest.approx(100.0, abs=1.0)]


@pytest.mark.slow
def test_a_check_that_meets_its_limit_ends_alone_and_keeps_its_log(tmp_path) -> None:
    found = gpu.run([Check("machine", "", 0.01)], options(tmp_path))
    # an interrupt that meets Python before its handlers is lost, and the check may end within its grace
    assert found["machine"]["state"] == "met its limit"
    assert (tmp_path / "gpu-machine.log").exists()


@pytest.mark.slow
def test_the_checks_of_kernels_run_on_a_processor(tmp_path) -> None:
    names = ("machine", "attention", "divergences", "loss", "growth")
    found = gpu.run([check for check in gpu.CHECKS if check.name in names], options(tmp_path, seconds=300.0))
    assert {name: (each["state"], each.get("last")) for name, each in found.items()} == dict.fromkeys(
        names, ("done", None)
    )
    # errors have bounds on a processor too
    assert "FAILS" not in gpu.as_table(found)
    errors = [each for each in found["attention"]["figures"] if "error" in each["name"]]
    assert len(errors) == 2
    assert all(0 < each["value"] < 1e-4 for each in errors)


def test_the_page_names_every_check_of_the_kit() -> None:
    page = (REPOSITORY / "docs" / "gpu.md").read_text(encoding="utf-8")
    rows = page.partition("## Unmeasured")[2]
    answered = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\|.*\|(.*)\|.*\|$", rows, re.M))))
    named = {check.name for check in gpu.CHECKS}
    assert answered - named == set()
    assert named - answered == {"machine", "divergences", "loss"}  # whose figures stand under "Measured"


# GPUs of the trainer and of its servers: two in all where the servers have some of their own
@pytest.mark.parametrize(
    ("check", "mode", "gpus"),
    [
        (gpu_runs.asynchronous, "colocate_async", [(1, None), (1, None)]),
        (gpu_runs.separate_gain, "separate_async", [(2, None), (1, 1)]),
    ],
)
def test_both_sides_of_the_wall_time_are_composed_for_the_same_gpus(check, mode, gpus, tmp_path, monkeypatch) -> None:
    asked, devices = [], []

    def trained(_, *overrides, gpus):
        config = compose_run([*overrides, f"run.dir={tmp_path}", *gpu_runs.on_gpus(gpus)])
        found = config.trainer.v1.trainer_mode
        asked.append((found, config.hardware.kind, config.env.kwargs.tool_s))
        rollout = config.actor_rollout_ref.rollout
        own = rollout.nnodes * rollout.n_gpus_per_node if found == "separate_async" else None
        devices.append((config.trainer.n_gpus_per_node, own))
        return tmp_path / found, 0.0

    # steps of 4 s, and of 1 s
    took = {"sync": 4.0, mode: 1.0}
    idle = {"run/trainer_idle": 0.5, "run/servers_idle": 0.25}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(gpu_runs, "trained", trained)
    monkeypatch.setattr(
        gpu_runs,
        "training_rows",
        lambda folder: [
            {"step": step, "time": step * took[folder.name], "timing_s/step": 1, **idle} for step in range(4)
        ],
    )
    found = {figure.name: figure.value for figure in check(replace(Place.small_one(), small=False))}
    assert asked == [("sync", "gpu", 0.5), (mode, "gpu", 0.5)]
    assert devices == gpus
    assert found["sync, seconds a step"] == 4.0
    assert found[f"{mode}, servers idle, mean share"] == 0.25
    assert found[f"{mode}, times synchronous"] == 0.25


def test_what_needs_two_gpus_says_so(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for check in (gpu_runs.separate, gpu_runs.separate_gain):
        with pytest.raises(RuntimeError, match="two GPUs are needed, and there are 1"):
            check(replace(Place.small_one(), small=False))
