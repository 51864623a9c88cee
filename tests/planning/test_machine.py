"""GPUs as a fake nvidia-smi tells them."""

from pathlib import Path

import pytest

from tests.planning.fake_gpus import fake_gpu, fake_line, fake_nvidia_smi
from trm_agent.runs.planning.machine import (
    GIB,
    LEAST_DRIVERS,
    VARIABLE,
    is_older,
    least_driver,
    parse,
    read_gpus,
    visible,
)

TWO = [fake_gpu(0), fake_gpu(1, 24)]


def test_a_line_is_read_whatever_commas_the_name_has() -> None:
    odd = fake_gpu(3, 15, name="Tesla, T4, 16 GB", free=GIB)
    assert parse(fake_line(odd)) == odd
    assert parse("0, GPU-1, L4, [N/A], 1000, 8.9, 580.1, [N/A]") is None
    assert parse("No devices were found") is None
    # a driver that does not know the query of the capability
    assert parse("0, GPU-1, L4, 23034, 22500, [N/A], 580.65.06, Disabled").capability == ""  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("listed", "shown"),
    [
        (None, [0, 1]),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("", []),
        ("-1,0", []),
        ("0,7,1", [0]),
        ("7,0", []),
        ("01", [1]),
        ("GPU-1a", [1]),
        ("0,0", [0]),
    ],
)
def test_cuda_reads_the_list_up_to_the_first_entry_of_no_device(listed: str | None, shown: list[int]) -> None:
    assert [gpu.index for gpu in visible(TWO, listed)] == shown


def test_the_fake_driver_is_asked_once_for_all_and_hidden_devices_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, *TWO)
    assert read_gpus() == (TWO, "")
    assert read_gpus({VARIABLE: "1"}) == (TWO[1:], "")
    assert read_gpus({VARIABLE: ""}) == ([], "CUDA_VISIBLE_DEVICES hides every one of 2")


def test_a_driver_that_says_nothing_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, fails="NVML: driver/library mismatch")
    assert read_gpus() == ([], "nvidia-smi: NVML: driver/library mismatch")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert read_gpus() == ([], "nvidia-smi: No such file or directory")


def test_memory_is_counted_in_whole_gib_so_that_a_plan_is_the_same_under_another_driver() -> None:
    # H100s show 81559 MiB, A100s 81920: 79.6 and 80 GiB
    assert [fake_gpu(total=mib << 20).gib for mib in (81559, 81920, 23034, 16376)] == [79, 80, 22, 15]


def test_versions_are_compared_by_number() -> None:
    assert is_older("9.9", "10.0")
    assert is_older("575.57.08", "580.65.06")
    assert not is_older("580.65.06", "580.65.06")
    assert not is_older("", "8.0")


def test_the_driver_follows_from_the_cuda_of_the_installed_torch() -> None:
    assert least_driver("12.8") == LEAST_DRIVERS["12"]
    assert least_driver("13.0") == least_driver(None) == LEAST_DRIVERS["13"]
