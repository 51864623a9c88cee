"""`experiment=auto` on fake machines."""

from pathlib import Path

import pytest
import yaml

from tests.planning.fake_gpus import fake_gpu, fake_nvidia_smi
from trm_agent.runs.compose import choices, compose_run
from trm_agent.runs.planning import auto
from trm_agent.runs.planning.auto import automatic, expanded, for_gpus
from trm_agent.runs.planning.choose import Place
from trm_agent.runs.planning.fit import COMPUTED
from trm_agent.runs.planning.largest import LADDER, Wanted, obstacle, plan_for
from trm_agent.runs.planning.machine import GIB, VARIABLE
from trm_agent.runs.planning.presets import EXPERIMENTS, PRESETS, nearest, written


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "unreachable", lambda: "")
    monkeypatch.setattr(auto, "free_memory_gib", lambda: 2048.0)


def chosen(number: int, gib: int, **given: str) -> tuple[str, ...]:
    return for_gpus("math", [fake_gpu(each, gib) for each in range(number)], given).overrides


def model_of(experiment: str) -> str:
    """The model that an experiment's yaml names."""
    defaults = yaml.safe_load((EXPERIMENTS / f"{experiment}.yaml").read_text(encoding="utf-8"))["defaults"]
    return next(each["override /model"] for each in defaults if "override /model" in each)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_says_its_machine_and_takes_the_largest_model_that_fits_there(preset) -> None:
    assert written(preset.name, "hardware.gpu_memory_gib") == preset.gib
    assert written(preset.name, "trainer.experiment_name") == preset.name
    of_preset = [each for each in chosen(preset.gpus, preset.gib) if "model=" not in each]
    gpus, gib = f"trainer.n_gpus_per_node={preset.gpus}", f"hardware.gpu_memory_gib={preset.gib}"
    assert of_preset == [f"experiment={preset.name}", gpus, gib]
    assert f"model={model_of(preset.name)}" in chosen(preset.gpus, preset.gib)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_and_what_auto_chooses_for_its_machine_are_one_configuration(preset) -> None:
    assert compose_run([f"experiment={preset.name}"]) == compose_run(list(chosen(preset.gpus, preset.gib)))


def test_no_experiment_for_gpus_writes_what_is_computed() -> None:
    for preset in PRESETS:
        assert not [path for path in COMPUTED if written(preset.name, path) is not None]


@pytest.mark.parametrize(
    ("number", "gib", "experiment", "model", "count"),
    [
        (1, 16, "math_1x16gb", "qwen3_0_6b", 1),
        (1, 40, "math_1x24gb", "qwen3_0_6b", 1),
        (2, 80, "math_1x80gb", "qwen3_4b", 2),
        # 16 tasks of 16 episodes do not divide over three
        (3, 80, "math_1x80gb", "qwen3_4b", 2),
        (4, 24, "math_1x24gb", "qwen3_4b", 4),
        (6, 80, "math_4x80gb", "qwen3_8b_base", 4),
        (8, 140, "math_qwen3_8b", "qwen3_8b_base", 8),
    ],
)
def test_the_preset_is_the_largest_that_the_machine_holds(
    number: int, gib: int, experiment: str, model: str, count: int
) -> None:
    found = chosen(number, gib)
    assert found[:3] == (f"experiment={experiment}", f"model={model}", f"trainer.n_gpus_per_node={count}")
    assert found[3] == f"hardware.gpu_memory_gib={gib}"


def test_less_than_the_smallest_preset_is_the_nano_model_on_the_gpu() -> None:
    assert nearest(1, 11) is None
    assert chosen(1, 11) == ("experiment=math_nano", "hardware=gpu", "trainer.n_gpus_per_node=1")


def test_without_the_hub_a_downloaded_model_is_taken_else_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "unreachable", lambda: "HF_HUB_OFFLINE=1")
    monkeypatch.setattr(auto, "cached_folder", lambda model: Path("/cache") if model == "Qwen/Qwen3-0.6B" else None)
    choice = for_gpus("math", [fake_gpu()], {})
    assert "model=qwen3_0_6b" in choice.overrides
    assert "the largest model that has been downloaded (HF_HUB_OFFLINE=1)" in choice.line
    monkeypatch.setattr(auto, "cached_folder", lambda model: None)
    monkeypatch.setattr(auto, "SMOLLM2_PACKAGE", "no_such_package")
    choice = for_gpus("math", [fake_gpu()], {})
    assert choice.overrides == ("experiment=math_nano", "hardware=gpu", "trainer.n_gpus_per_node=1")
    assert "HF_HUB_OFFLINE=1, and none of " in choice.line
    assert "so the nano model" in choice.line


def test_what_the_user_gives_is_not_chosen() -> None:
    found = chosen(4, 80, **{"model": "hub", "trainer.n_gpus_per_node": "2"})
    assert found == ("experiment=math_4x80gb", "hardware.gpu_memory_gib=80")
    # the lengths that the user gives decide the model
    assert "model=qwen3_1_7b" in chosen(1, 40, **{"data.max_response_length": "512", "data.max_prompt_length": "512"})


def test_the_default_follows_the_fake_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, fake_gpu(0, 80), fake_gpu(1, 80))
    assert automatic("math").overrides[0] == "experiment=math_1x80gb"
    monkeypatch.setenv(VARIABLE, "1")
    assert "trainer.n_gpus_per_node=1" in automatic("math").overrides
    assert automatic("math", ["hardware=cpu"]).overrides == ("experiment=math_nano",)
    for value in ("", "-1"):
        monkeypatch.setenv(VARIABLE, value)
        hidden = automatic("code")
        assert (hidden.overrides, hidden.why) == (("experiment=code_nano",), f"{VARIABLE}={value} hides every GPU")
    monkeypatch.delenv(VARIABLE)
    fake_nvidia_smi(tmp_path, monkeypatch, fails="NVML: driver/library mismatch")
    with pytest.raises(ValueError, match=r"experiment: got 'auto', but nvidia-smi: NVML.*; allowed: .* driver"):
        automatic("math")
    (tmp_path / "dev" / "nvidia0").unlink()
    assert automatic("math").why == "a machine without a GPU"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert automatic("math").why.endswith("; the devices of RAY_ADDRESS=head:6379 are not counted")


def test_a_task_of_code_brings_its_environment() -> None:
    found = for_gpus("code", [fake_gpu()], {"env.kwargs.level": "small"}).overrides
    assert found[-2:] == ("env=code_tests", "env.kwargs.reveal=stepwise")


def test_auto_and_no_experiment_are_the_same_and_a_named_one_stays() -> None:
    for given in ([], ["experiment=auto"]):
        overrides, choice = expanded("math", [*given, "seed=1"])
        assert choice is not None
        assert overrides == [*choice.overrides, "seed=1"]
    assert expanded("math", ["experiment=code_nano"]) == (["experiment=code_nano"], None)
    with pytest.raises(ValueError, match=r"experiment: got 'aut'; allowed: .*did you mean 'auto'"):
        compose_run(["experiment=aut"])


def test_the_largest_model_stands_first() -> None:
    assert set(LADDER) <= set(choices("model"))
    wanted = Wanted(8192)
    held = [not obstacle(plan_for(model, Place(1, 1, 79 * GIB), wanted), wanted) for model in LADDER]
    assert held == sorted(held)
