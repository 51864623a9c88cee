"""CUDA_VISIBLE_DEVICES set so that no GPU is visible."""

import os
from pathlib import Path
from unittest.mock import patch

import pytest
from omegaconf import OmegaConf

from trm_agent import train
from trm_agent.runs import elsewhere, preflight_verl
from trm_agent.runs.hidden_gpus import VARIABLE, for_logical_devices, hides_all

HIDING = ("", "-1", " ", "-1,0", ",0", "NoDevFiles")
SHOWING = ("0", "0,-1", "1,0", "GPU-8932f937", "MIG-GPU-1/1/0")


@pytest.mark.parametrize(("value", "hides"), [*((each, True) for each in HIDING), *((each, False) for each in SHOWING)])
def test_cuda_reads_the_list_up_to_the_first_entry_that_names_no_device(value: str, hides: bool):
    assert hides_all({VARIABLE: value}) is hides


def test_an_absent_variable_hides_nothing_and_stays_absent():
    assert not hides_all({})
    assert for_logical_devices({}, 2) == {}


@pytest.mark.parametrize("value", [*HIDING, *SHOWING])
@pytest.mark.parametrize("number", [1, 3])
def test_ray_finds_as_many_entries_as_logical_devices_and_cuda_none(value: str, number: int):
    entries = for_logical_devices({VARIABLE: value}, number)
    assert len(entries[VARIABLE].split(",")) == number
    assert hides_all(entries)


@pytest.mark.parametrize("value", ["", "-1"])
def test_a_preset_for_gpus_is_refused_where_all_are_hidden(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = {"device": "cuda", "n_gpus_per_node": 8, "nnodes": 1}
    config = OmegaConf.create({"hardware": {"kind": "gpu"}, "trainer": trainer, "ray_kwargs": {}})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(elsewhere, "RAY_HERE", tmp_path / "no_cluster")
    monkeypatch.setattr(preflight_verl, "_cuda_devices", lambda: 8)
    monkeypatch.setattr(preflight_verl, "check_gpus", lambda config: None)
    preflight_verl.devices(config)
    monkeypatch.setenv(VARIABLE, value)
    words = f"hardware.kind: got 'gpu', but {VARIABLE}={value} hides every CUDA device.*unset {VARIABLE}"
    with pytest.raises(ValueError, match=words):
        preflight_verl.devices(config)


def test_the_command_gives_ray_its_logical_devices(monkeypatch: pytest.MonkeyPatch):
    for name in ("preflight.check_machine", "preflight.check", "chat.resolve_protocol"):
        monkeypatch.setattr(f"trm_agent.runs.{name}", lambda *_: None)
    for name in ("row_files.pin_rows", "declared_packages.pin_packages"):
        monkeypatch.setattr(f"trm_agent.runs.{name}", lambda _: "")
    monkeypatch.setattr(train, "check_modes", lambda _: None)
    with patch.dict(os.environ, {VARIABLE: ""}):
        for kind, expected in (("gpu", ""), ("cpu", "-1,-1")):
            hardware = {"kind": kind, "env_vars": {}}
            train._refuse_or_pin(OmegaConf.create({"hardware": hardware, "trainer": {"n_gpus_per_node": 2}}))
            assert os.environ[VARIABLE] == expected
