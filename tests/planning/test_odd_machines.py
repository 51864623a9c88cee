"""Machines that are hard to read: none is taken for another one without a word. The GPUs are fake."""

import argparse
from pathlib import Path

import pytest

from tests.planning.fake_gpus import fake_gpu, fake_line, fake_nvidia_smi
from trm_agent.runs import hidden_gpus, preflight_gpu
from trm_agent.runs.arguments import composed
from trm_agent.runs.compose import compose_run
from trm_agent.runs.planning import auto, machine
from trm_agent.runs.planning.auto import automatic, expanded, for_gpus
from trm_agent.runs.planning.machine import GIB, VARIABLE, read_gpus

ONE_GPU = ["experiment=math_nano", "hardware=gpu", "trainer.n_gpus_per_node=1"]


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "unreachable", lambda: "")
    monkeypatch.setattr(preflight_gpu, "free_memory_gib", lambda: 64.0)


@pytest.mark.parametrize("device", ["kfd", "dxg"])
def test_another_maker_s_gpu_trains_the_nano_model_on_the_processor(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / device).touch()
    monkeypatch.setattr(hidden_gpus, "DEVICES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    choice = automatic("math")
    assert (choice.overrides, choice.why) == (("experiment=math_nano",), "a machine without a GPU of NVIDIA's")


def test_windows_with_nvidia_s_tool_has_its_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, fake_gpu(0, 24))
    (tmp_path / "dev" / "nvidia0").rename(tmp_path / "dev" / "dxg")
    assert automatic("math").overrides[0] == "experiment=math_1x24gb"


def test_a_pytorch_without_cuda_trains_the_nano_model_on_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, fake_gpu(capability="7.5"))
    monkeypatch.setattr(machine, "torch_cuda", lambda: None)
    choice = automatic("code")
    assert choice.overrides == ("experiment=code_nano",)
    assert "PyTorch is built without CUDA; TRM_HARDWARE=gpu bash scripts/setup.sh" in choice.line
    with pytest.raises(ValueError, match=r"hardware.kind: got 'gpu', but the installed one is built without CUDA"):
        preflight_gpu.check_gpus(compose_run(ONE_GPU))


LOST = "1, GPU-1aa, H100, [Unknown Error], [Unknown Error], [Unknown Error], 580.95.05, [N/A]"
UNREADABLE = [
    ("0, GPU-0, H100, [N/A], [N/A], 9.0, 580.95.05, [N/A]", None, r"nvidia-smi says '0, GPU-0, H100, \[N/A\]"),
    ("Failed to initialize NVML: Unknown Error", None, "nvidia-smi says 'Failed to initialize NVML"),
    (f"{fake_line(fake_gpu(0))}\n{LOST}\n{fake_line(fake_gpu(2))}", None, "nvidia-smi says '1, GPU-1aa"),
    (f"{fake_line(fake_gpu(0))}\n{LOST}\n{fake_line(fake_gpu(2))}", "0,1", "nvidia-smi says '1, GPU-1aa"),
    (fake_line(fake_gpu(0)), "7", f"{VARIABLE} is 7, which names none of 1; allowed: .*; unset {VARIABLE}, or list"),
    (fake_line(fake_gpu(0)), "MIG-abc", f"{VARIABLE} is MIG-abc, which names none of 1"),
]


@pytest.mark.parametrize(("says", "listed", "words"), UNREADABLE)
def test_gpus_that_cannot_be_read_are_refused_by_auto_and_before_a_run(
    says: str, listed: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, says=says)
    if listed is not None:
        monkeypatch.setenv(VARIABLE, listed)
    with pytest.raises(ValueError, match=f"experiment: got 'auto', but {words}"):
        automatic("math")
    config = compose_run(ONE_GPU)
    with pytest.raises(ValueError, match=f"hardware.kind: got 'gpu', but {words}"):
        preflight_gpu.check_gpus(config)


def test_a_lost_gpu_that_the_variable_leaves_out_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, says=UNREADABLE[2][0])
    monkeypatch.setenv(VARIABLE, "0,2")
    assert [gpu.index for gpu in read_gpus()[0]] == [0, 2]


@pytest.mark.parametrize("listed", [None, "0", "MIG-abc"])
def test_a_slice_needs_its_memory(listed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, fake_gpu(sliced=True, free=GIB))
    if listed is not None:
        monkeypatch.setenv(VARIABLE, listed)
    task = argparse.Namespace(schedule=None, task="math")
    words = r"hardware.gpu_memory_gib: got null, but GPU 0 .* is split by MIG"
    for overrides in ([], ONE_GPU, ["experiment=math_1x80gb"]):
        with pytest.raises(ValueError, match=words):
            composed(task, list(overrides))
    given = "hardware.gpu_memory_gib=19"
    assert "experiment=math_1x16gb" in expanded("math", [given])[0]
    config = composed(task, [*ONE_GPU, given])
    assert config.hardware.gpu_memory_gib == 19
    preflight_gpu.check_gpus(config)


def test_the_memory_that_the_user_gives_is_what_auto_chooses_for() -> None:
    given = {"hardware.gpu_memory_gib": "24"}
    choice = for_gpus("math", [fake_gpu()], given)
    assert choice.overrides == ("experiment=math_1x24gb", "model=qwen3_0_6b", "trainer.n_gpus_per_node=1")
    assert "1 GPU of 24 GiB" in choice.why


@pytest.mark.parametrize("field", ["hardware.gpu_memory_gib", "data.max_prompt_length", "data.max_response_length"])
@pytest.mark.parametrize("value", ["abc", "8e3", "0", "${data.max_prompt_length}", ""])
def test_a_size_that_is_no_number_is_refused_by_auto(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{field}: got .*; allowed: a whole number of 1 or more; write a number"):
        for_gpus("math", [fake_gpu()], {field: value})


def test_two_experiments_are_refused() -> None:
    with pytest.raises(ValueError, match="experiment: got 'auto math_nano'; allowed: one; leave out the others"):
        expanded("math", ["experiment=auto", "experiment=math_nano"])


def test_auto_leaves_out_gpus_in_use_and_of_another_kind_and_says_so() -> None:
    busy = fake_gpu(3, free=GIB)
    choice = for_gpus("math", [fake_gpu(0), fake_gpu(1), fake_gpu(2), busy], {})
    # 16 tasks of 16 episodes do not divide over three
    assert "trainer.n_gpus_per_node=2" in choice.overrides
    assert "3 GPUs of 80 GiB, NVIDIA H100 80GB HBM3 (left out: GPU 3, in use), 1 idle" in choice.why
    small = fake_gpu(0, 24, name="NVIDIA L4")
    choice = for_gpus("math", [small, fake_gpu(1), fake_gpu(2)], {})
    assert choice.overrides[0] == "experiment=math_1x24gb"
    told = f"(left out: GPU 1, NVIDIA H100 80GB HBM3 of 80 GiB and 1 behind it; {VARIABLE}=1,2 takes others)"
    assert told in choice.why
    with pytest.raises(ValueError, match=rf"GPU 0 .* only 1.0 GiB of 80.0 GiB are free; .*; set {VARIABLE}=1,2"):
        for_gpus("math", [fake_gpu(0, free=GIB), fake_gpu(1), fake_gpu(2)], {})
    with pytest.raises(ValueError, match=r"a first GPU that no program uses; end what uses it"):
        for_gpus("math", [fake_gpu(0, free=GIB)], {})
