"""`trm doctor`: real probes of this machine, and fakes, named so, of machines that lack something."""

import json
import socket
import threading
from pathlib import Path

import pytest

from tests.planning.fake_gpus import fake_gpu, fake_nvidia_smi
from trm_agent.cli import main
from trm_agent.doctor import machine, sections, software
from trm_agent.doctor.finding import Finding, ok
from trm_agent.runs.planning.machine import GIB


def fake_program(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of that name in front of everything in PATH."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_real_report_has_every_section_and_says_what_the_exit_status_says(capsys: pytest.CaptureFixture) -> None:
    status = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert list(report["sections"]) == list(sections.SECTIONS)
    assert report["can_train"] == (status == 0)
    found = [each for section in report["sections"].values() for each in section]
    assert all(each["told"] and (each["remedy"] or each["state"] == "ok") for each in found)
    # this suite runs where Python, PyTorch and verl are
    assert {each["state"] for title in ("python", "torch", "verl") for each in report["sections"][title]} == {"ok"}


def test_the_text_fits_a_screen_and_names_what_is_missing() -> None:
    found = {
        "python": [ok("3.11.7")],
        "verl": [Finding("missing", "not installed", "pip install verl"), ok("plugin")],
        "browser": [Finding("warning", "no Chromium " * 20, "apt-get install chromium")],
    }
    lines = sections.as_text(found).splitlines()
    assert lines[:4] == [
        "ok       python   3.11.7",
        "missing  verl     not installed",
        "                  -> pip install verl",
        "ok                plugin",
    ]
    assert lines[-1] == "the main job cannot run here; missing: verl"
    assert max(map(len, lines)) <= 120
    assert not sections.can_train(found)
    del found["verl"]
    assert sections.can_train(found)


def test_a_probe_that_hangs_or_fails_holds_up_no_other() -> None:
    def fails() -> list[Finding]:
        raise OSError("disk on fire")

    hung, threads = threading.Event(), []

    def hangs() -> list[Finding]:
        threads.append(threading.current_thread())
        return [ok(str(hung.wait(30)))]

    probes = {"hangs": hangs, "hangs too": hangs, "fails": fails}
    found = sections.examine({**probes, "works": lambda: [ok("fine")]}, limit_s=0.2)
    hung.set()
    assert list(found) == ["hangs", "hangs too", "fails", "works"]
    assert [each[0].told for each in found.values()] == [
        "no answer within 0.2 s",
        "no answer within 0.2 s",
        "the probe failed: OSError: disk on fire",
        "fine",
    ]
    # the process can end without them
    assert all(thread.daemon for thread in threads)


def test_fake_gpus_are_told_with_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, used = fake_gpu(0, name="H100, 80, HBM"), fake_gpu(1, 22, name="L4", free=GIB)
    old, weak = fake_gpu(2, driver="470.82.01"), fake_gpu(3, 15, name="T4", capability="7.5")
    fake_nvidia_smi(tmp_path, monkeypatch, free, used, old, weak)
    told = machine.gpus()
    assert told[0] == ok("0: H100, 80, HBM, 80 GiB, 80 GiB free")
    assert (told[1].state, told[1].told) == ("warning", "1: L4, 22 GiB, 1 GiB free: in use")
    assert [each.state for each in told[2:]] == ["missing", "missing"]
    assert "driver 470.82.01" in told[2].told
    assert "compute capability 7.5" in told[3].told


def test_a_fake_driver_that_does_not_answer_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "nvidia0"
    device.touch()
    monkeypatch.setattr(machine, "NVIDIA_DEVICE", device)
    monkeypatch.setattr(software, "NVIDIA_DEVICE", device)
    fake_program(tmp_path, "nvidia-smi", "echo 'NVML: driver/library mismatch' >&2; exit 9", monkeypatch)
    (told,) = machine.gpus()
    assert told.state == "missing"
    assert "lists none (nvidia-smi: NVML: driver/library mismatch)" in told.told
    # PyTorch without CUDA beside a GPU would leave it idle
    monkeypatch.setattr(software, "torch_cuda", lambda: None)
    (told,) = software.torch()
    assert (told.state, told.remedy) == ("missing", software.SETUP)
    device.unlink()
    assert machine.gpus()[0].state == software.torch()[0].state == "ok"


@pytest.mark.parametrize("value", ["", "-1"])
def test_hidden_gpus_are_not_looked_for(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(tmp_path, "nvidia-smi", "echo 'L4, 23034, 1000'", monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    (told,) = machine.gpus()
    assert told == ok(f"hidden by CUDA_VISIBLE_DEVICES={value}: the default is experiment=math_nano, on the processor")


def test_a_fake_path_without_programs_has_no_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = software.browser()
    assert (found.state, found.remedy) == ("warning", "apt-get install chromium")


def test_another_version_or_none_of_what_is_pinned_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "_wanted", lambda name: "0.9.1")
    monkeypatch.setattr(software, "version_of", lambda name: "0.8.0")
    found = software.verl()[0]
    assert (found.state, found.remedy) == ("missing", "pip install 'verl==0.9.1'")
    monkeypatch.setattr(software, "version_of", lambda name: None)
    assert [each[0].state for each in (software.verl(), software.ray(), software.torch(), software.vllm())] == [
        "missing"
    ] * 4


def test_packages_of_a_core_install_name_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = software.importlib.util.find_spec
    monkeypatch.setattr(
        software.importlib.util, "find_spec", lambda name: None if name in ("torch", "verl") else real(name)
    )
    found = {each.told.partition(":")[0]: each for each in software.packages()}
    assert found["trm train"].state == "missing"
    assert found["trm train"].remedy == "pip install 'trm-agent[train]'"
    assert found["trm bounds"].told == "trm bounds: torch not installed"
    assert found["trm bounds"].state == "warning"
    assert found["trm report"].state == "ok"


def test_memory_is_that_of_the_control_group_where_it_is_less(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 20000000 kB\nMemAvailable: 8388608 kB\n")
    assert machine.free_memory_gib(tmp_path / "meminfo", tmp_path) == 8.0
    (tmp_path / "memory.max").write_text(f"{4 << 30}\n")
    (tmp_path / "memory.current").write_text(f"{1 << 30}\n")
    assert machine.free_memory_gib(tmp_path / "meminfo", tmp_path) == 3.0
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory_gib(tmp_path / "meminfo", tmp_path) == 8.0


def test_a_full_disk_is_missing_and_a_folder_that_is_not_there_yet_counts_as_its_parent(tmp_path: Path) -> None:
    assert machine._room(tmp_path / "not/yet", "runs", 1e-6).state != "missing"
    full = machine._room(tmp_path, "runs", 1e9)
    assert (full.state, full.remedy) == ("missing", "make room, or start in another folder")
    assert full.told.endswith("GiB free for runs, 1e+09 are needed")


def test_ports_that_cannot_be_opened_and_another_ray_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert [each.state for each in machine.ports()] == ["warning", "ok"]

    def refused(address: tuple[str, int]) -> socket.socket:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(machine.socket, "create_server", refused)
    told = machine.ports()[1]
    assert told.told == "only 0 of 16 on 127.0.0.1 could be opened: Operation not permitted"
    assert told.state == "missing"


def test_a_sandbox_without_control_groups_is_a_warning_with_their_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [{"name": "memory", "missing": "read-only; make it writable"}, {"name": "files", "missing": ""}]
    monkeypatch.setattr(machine, "output_of", lambda command, limit_s: (json.dumps({"limits": limits}), ""))
    isolated, without = machine.sandbox()
    assert (isolated.state, without.state, without.remedy) == ("ok", "warning", "read-only; make it writable")
    limits[0]["missing"] = ""
    assert [found.state for found in machine.sandbox()] == ["ok"]


def test_a_sandbox_that_cannot_isolate_is_a_warning_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "output_of", lambda command, limit_s: (None, "bwrap: No permissions"))
    (found,) = machine.sandbox()
    assert found.state == "warning"
    assert "(bwrap: No permissions)" in found.told
    assert "bubblewrap" in found.remedy
