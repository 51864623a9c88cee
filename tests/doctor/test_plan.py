"""`trm doctor --plan` for this machine, and for others that are named."""

import json
from pathlib import Path

import pytest

from tests.planning.fake_gpus import fake_gpu, fake_nvidia_smi
from trm_agent.cli import main
from trm_agent.doctor import plan
from trm_agent.runs.compose import compose_run
from trm_agent.runs.planning import auto, machine
from trm_agent.runs.planning.fit import plan_of_run, shape_of_run
from trm_agent.runs.planning.machine import GIB


def test_another_machine_s_plan_is_a_table_of_parts(capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor", "--plan", "--model", "qwen3_4b", "--gpus", "4", "--gpu-memory", "79"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Qwen3-4B on 4 GPUs of 79.0 GiB: ")
    # 4.02 billion parameters over four devices: 4 bytes each are 3.7 GiB, of the moments 7.5
    for words in ("update  ", "3.7 GiB  gradients", "7.5 GiB  Adam's moments", "tokens of a trajectory"):
        assert words in shown


def test_a_plan_that_does_not_fit_says_so_and_exits_with_1(capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor", "--plan", "--model", "qwen3_8b", "--gpus", "1", "--gpu-memory", "22", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["fits"]
    assert found["sums"]["loading"] > found["usable"]
    assert found["sums"] == {name: sum(parts.values()) for name, parts in found["phases"].items()}


def test_what_would_lengthen_the_trajectory_is_named(capsys: pytest.CaptureFixture) -> None:
    main(["doctor", "--plan", "--model", "qwen3_0_6b", "--gpus", "2", "--gpu-memory", "22", "--tokens", "8192"])
    shown = capsys.readouterr().out.partition("longest")[2]
    assert "with actor_rollout_ref.actor.fsdp_config.offload_policy=true" in shown


def test_without_options_the_fake_machine_and_its_preset_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, fake_gpu(0, 24))
    made = plan.make(None, None, None, None)
    assert (made.shape.name, made.place.devices, made.fits) == ("Qwen3-0.6B", 1, True)
    fake_nvidia_smi(tmp_path, monkeypatch, *[fake_gpu(each) for each in range(4)])
    assert plan.make(None, None, None, None).shape.name == "Qwen3-8B-Base"


@pytest.mark.parametrize("number", [1, 3, 4, 8])
def test_the_plan_here_is_that_of_a_training_here(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "unreachable", lambda: "")
    gpus = [fake_gpu(each) for each in range(number)]
    fake_nvidia_smi(tmp_path, monkeypatch, *gpus)
    config = compose_run(list(auto.for_gpus("math", gpus, {}).overrides))
    shape = shape_of_run(config)
    assert shape is not None
    here, there = plan.make(None, None, None, None), plan_of_run(config, shape)
    assert (here.shape, here.place, here.layout) == (there.shape, there.place, there.layout)
    assert here.phases() == there.phases()
    # that of a run may not be longer than its micro-batch, which is composed
    assert here.longest >= there.longest


def test_gpus_here_that_cannot_be_read_are_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, fails="NVML: driver/library mismatch")
    assert main(["doctor", "--plan"]) == 2
    assert "--plan: got 'this machine', but nvidia-smi: NVML: driver/library mismatch" in capsys.readouterr().err
    # another machine's plan asks none
    assert main(["doctor", "--plan", "--gpus", "1", "--gpu-memory", "79"]) == 0
    fake_nvidia_smi(tmp_path, monkeypatch, fake_gpu())
    with monkeypatch.context() as without:
        without.setattr(machine, "torch_cuda", lambda: None)
        with pytest.raises(ValueError, match="--plan: got 'this machine', whose PyTorch is built without CUDA"):
            plan.make(None, None, None, None)
    fake_nvidia_smi(tmp_path, monkeypatch, fake_gpu(sliced=True))
    with pytest.raises(ValueError, match="--gpu-memory: got null, for slices of GPUs"):
        plan.make(None, None, None, None)
    assert plan.make(None, None, 19, None).place.device == 19 * GIB


def test_without_a_gpu_trainer_and_engine_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "read_gpus", lambda: ([], "none"))
    monkeypatch.setattr(plan, "free_memory_gib", lambda: 24.0)
    made = plan.make(None, None, None, None)
    assert (made.shape.name, list(made.phases()), made.fits) == ("SmolLM2-135M", ["update"], True)
    # longer than the context that it was made for
    assert not plan.make(None, None, None, 8193).fits


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--plan", "--gpus", "2"], "--gpu-memory: got null; allowed: whole GiB of each GPU, since there is none here"),
        (["--plan", "--gpu-memory", "80"], "--gpus: got null; allowed: the number of GPUs"),
        (["--plan", "--gpus", "0", "--gpu-memory", "80"], "--gpus: got 0; allowed: a whole number of 1 or more"),
        (["--plan", "--model", "qwen9"], "--model: got 'qwen9', of which no config.json of a dense model is here"),
        (["--model", "nano"], "--model: got 'nano'; allowed: nothing without --plan; add --plan"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    words: list[str], refusal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(plan, "read_gpus", lambda: ([], "none"))
    assert main(["doctor", *words]) == 2
    assert refusal in capsys.readouterr().err
