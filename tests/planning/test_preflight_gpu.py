"""GPUs, heads and plans that cannot work are refused before Ray, with the numbers found; the GPUs are fake."""

import copy
import functools
import re
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from tests.planning.fake_gpus import fake_gpu, fake_nvidia_smi
from trm_agent.runs import elsewhere, preflight_gpu, preflight_verl
from trm_agent.runs.compose import compose_run
from trm_agent.runs.fit_cpu_engine import limits_with_room
from trm_agent.runs.planning.fit import KNOBS, plan_of_run, shape_of_run
from trm_agent.runs.planning.machine import GIB
from trm_agent.runs.planning.shapes import KNOWN
from trm_agent.runs.preflight_gpu import (
    check_gpus,
    check_plan,
    fitting_plan,
    free_gpus,
    heads,
    host_memory,
    usable_gpus,
)


@functools.cache
def composed(*overrides: str) -> DictConfig:
    return compose_run(list(overrides))


SERVERS = {"actor_rollout_ref__rollout__nnodes": 1, "actor_rollout_ref__rollout__n_gpus_per_node": 2}


def run_on(number: int = 1, gib: int = 79, **changes: object) -> DictConfig:
    """The preset of one GPU of 80 GB with fields changed."""
    config = copy.deepcopy(composed("experiment=math_1x80gb"))
    config.trainer.n_gpus_per_node, config.hardware.gpu_memory_gib = number, gib
    for path, value in changes.items():
        OmegaConf.update(config, path.replace("__", "."), value, force_add=True)
    return config


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_gpu, "torch_cuda", lambda: "13.0")
    monkeypatch.setattr(preflight_gpu, "free_memory_gib", lambda: 64.0)


@pytest.mark.parametrize(
    ("gpus", "config", "words"),
    [
        (
            [fake_gpu(driver="570.86.10")],
            run_on(),
            "hardware.kind: got 'gpu', but NVIDIA H100 80GB HBM3 has driver 570.86.10; allowed: driver 580.65.06 or "
            "newer, which CUDA 13.0 needs",
        ),
        (
            [fake_gpu(0, 22), fake_gpu(1, 22)],
            run_on(8),
            "trainer.n_gpus_per_node: got 8; allowed: at most 2, the CUDA devices of this machine (2 x NVIDIA H100 "
            "80GB HBM3 of 22 GiB); lower it, or choose experiment=math_1x24gb",
        ),
        (
            [fake_gpu(0), fake_gpu(1)],
            run_on(1, trainer__v1__trainer_mode="separate_async", **SERVERS),
            "trainer.n_gpus_per_node: got 1, with 2 more for the rollout servers; allowed: at most 2 together, the "
            "CUDA devices of this machine",
        ),
        (
            [fake_gpu(0, 22)],
            run_on(),
            "hardware.gpu_memory_gib: got 79, but the smallest of 1 x NVIDIA H100 80GB HBM3 of 22 GiB has 22; allowed: "
            "at most 22; set it, or choose experiment=math_1x24gb",
        ),
        (
            [fake_gpu(0, 11)],
            run_on(),
            "choose experiment=math_nano hardware=gpu trainer.n_gpus_per_node=1",
        ),
        (
            [fake_gpu(capability="7.5", name="Tesla T4")],
            run_on(),
            "but Tesla T4 has compute capability 7.5; allowed: 8.0 or newer",
        ),
        (
            [fake_gpu(0), fake_gpu(1, 94, name="NVIDIA H100 NVL")],
            run_on(2),
            "but they are 1 x NVIDIA H100 80GB HBM3 of 80 GiB, 1 x NVIDIA H100 NVL of 94 GiB; allowed: GPUs of one",
        ),
    ],
)
def test_gpus_that_cannot_be_used_are_refused_with_what_they_are(gpus, config: DictConfig, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        usable_gpus(config, gpus)


def test_gpus_beyond_those_that_are_used_may_be_anything() -> None:
    usable_gpus(run_on(), [fake_gpu(0), fake_gpu(1, 94, name="NVIDIA H100 NVL", capability="7.5")])


def test_an_older_torch_takes_an_older_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_gpu, "torch_cuda", lambda: "12.8")
    usable_gpus(run_on(), [fake_gpu(driver="570.86.10")])


def test_a_gpu_that_others_use_is_refused_where_the_plan_needs_what_they_hold() -> None:
    config = run_on()
    plan = plan_of_run(config, KNOWN["Qwen/Qwen3-1.7B"])
    with pytest.raises(ValueError, match=r"but of GPU 0 .* only 30.0 GiB of 80.0 GiB are free; allowed: .*plan needs"):
        free_gpus([fake_gpu(free=30 * GIB)], plan)
    free_gpus([fake_gpu(free=79 * GIB)], plan)
    # without a plan, a fifth of it
    with pytest.raises(ValueError, match="allowed: GPUs that no program uses; end what uses it"):
        free_gpus([fake_gpu(free=60 * GIB)], None)
    free_gpus([fake_gpu(free=70 * GIB)], None)


@pytest.mark.parametrize(
    ("path", "size", "words"),
    [
        (
            KNOBS["tensor_parallel"],
            3,
            "got 3, but Qwen3-1.7B has 16 heads and 8 of keys; allowed: 1, 2, 4, 8; choose one",
        ),
        (KNOBS["ulysses"], 3, "got 3, with a model of 16 attention heads and 8 key heads; allowed: 1, 2, 4, 8, 16"),
        ("actor_rollout_ref.actor.ulysses_sequence_parallel_size", 5, "got 5, with a model of 16 attention heads"),
    ],
)
def test_heads_are_divided_by_the_devices_that_share_them(path: str, size: int, words: str) -> None:
    config = run_on(8)
    OmegaConf.update(config, path, size)
    with pytest.raises(ValueError, match=re.escape(words)):
        heads(config, KNOWN["Qwen/Qwen3-1.7B"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {KNOBS["micro_tokens"]: 200_000},
            f"{KNOBS['micro_tokens']}: got 200000, with which Qwen3-1.7B on 1 GPU of 79 GiB needs ",
        ),
        ({KNOBS["micro_tokens"]: 200_000}, "in the phase update (logits and their gradients of 200000 tokens "),
        ({KNOBS["engine_share"]: 0.9}, f"{KNOBS['engine_share']}: got 0.9, with which"),
        ({KNOBS["engine_share"]: 0.9}, "in the phase generation (cache "),
        ({KNOBS["engine_share"]: 0.1}, "GPU of 79 GiB holds "),
        ({KNOBS["engine_share"]: 0.1}, " (cache); allowed: at most "),
        (
            {KNOBS["micro_tokens"]: 16_384},
            "data.max_response_length: got 28672, with which a trajectory has 32768 tokens",
        ),
        (
            {KNOBS["micro_tokens"]: 16_384},
            "holds 16384 (update); allowed: at most 12288; change that, take a smaller model",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_with_its_phase_and_its_parts(changes: dict, words: str) -> None:
    config = run_on(**changes)
    with pytest.raises(ValueError, match=re.escape(words)):
        fitting_plan(config, plan_of_run(config, KNOWN["Qwen/Qwen3-1.7B"]))


def long_run(path: str, response: int) -> DictConfig:
    """The preset of eight GPUs with another model and length, fitted as the command fits it."""
    lengths = [f"data.max_response_length={response}", f"actor_rollout_ref.model.path={path}"]
    return compose_run(["experiment=math_qwen3_8b", "model=hub", *lengths])


@pytest.mark.parametrize("response", [65_536, 131_072])
def test_responses_beyond_32k_compose_and_fit_a_model_that_was_made_for_them(response: int) -> None:
    path = "Qwen/Qwen3-4B-Instruct-2507"
    config = long_run(path, response)
    plan = plan_of_run(config, KNOWN[path])
    fitting_plan(config, plan)
    assert plan.longest >= 4096 + response == config.actor_rollout_ref.rollout.max_model_len
    limits = limits_with_room(config)
    # a turn of 2,048 tokens and the whole response at 10 tokens a second, whatever else there is
    assert limits.generate_timeout_s >= 205
    assert limits.episode_timeout_s >= response / 10


def test_responses_beyond_the_models_context_are_refused_with_what_has_longer_ones() -> None:
    config = long_run("Qwen/Qwen3-4B", 65_536)
    words = (
        r"^data.max_response_length: got 65536, .*holds 40960 \(context\); allowed: at most 36864; lower it, or take a "
    )
    with pytest.raises(ValueError, match=words + r"model that was made for longer contexts.*YaRN"):
        fitting_plan(config, plan_of_run(config, KNOWN["Qwen/Qwen3-4B"]))


def test_a_model_that_cannot_even_be_loaded_is_refused_for_that() -> None:
    config = run_on(1, 22)
    with pytest.raises(ValueError, match=r"Qwen3-8B on 1 GPU of 22 GiB needs .* GiB in the phase loading \(parameters"):
        check_plan(config, KNOWN["Qwen/Qwen3-8B"])


def test_a_model_that_the_host_cannot_load_is_refused() -> None:
    config = run_on(4)
    plan = plan_of_run(config, KNOWN["Qwen/Qwen3-1.7B"])
    # 1.72 billion parameters of 4 bytes in each of four processes: 25.6 GiB
    host_memory(config, plan, 26.0)
    with pytest.raises(
        ValueError, match=r"which needs 25.6 GiB of the machine's memory .*, of which 20.0 GiB are free"
    ):
        host_memory(config, plan, 20.0)


def test_a_run_on_fake_gpus_is_checked_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, fake_gpu())
    check_gpus(run_on())
    fake_nvidia_smi(tmp_path, monkeypatch, fake_gpu(free=GIB))
    with pytest.raises(ValueError, match=r"only 1.0 GiB of 80.0 GiB are free"):
        check_gpus(run_on())
    config = run_on(actor_rollout_ref__model__path="mine/unknown")
    assert shape_of_run(config) is None
    with pytest.raises(ValueError, match="GPUs that no program uses"):
        check_gpus(config)


def test_devices_of_a_cluster_are_not_looked_for_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, fake_gpu(0, 22, driver="470.82.01"))
    monkeypatch.setattr(elsewhere, "RAY_HERE", tmp_path / "no_cluster")
    with pytest.raises(ValueError, match="driver 470"):
        preflight_verl.devices(run_on(8))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    preflight_verl.devices(run_on(8))
