"""A GPU's memory that did not do: the phase by the functions on the stack, and its field."""

from pathlib import Path

import pytest

from tests.runs.test_endings import FACTS
from trm_agent.runs.endings.explain import explain
from trm_agent.runs.endings.gpu_phase import PHASES

MESSAGE = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total capacity of 79.11 GiB "
    "of which 1.20 GiB is free. Including non-PyTorch memory, this process has 77.90 GiB in use."
)
SITE = "/opt/env/lib/python3.12/site-packages"


def traceback(*functions: str) -> str:
    """The exception as Ray hands it on, under so many frames, the innermost last."""
    frames = "".join(f'  File "{SITE}/some.py", line {each}, in {name}\n' for each, name in enumerate(functions, 1))
    return f"ray.exceptions.RayTaskError(OutOfMemoryError): ray::WorkerDict.do() (pid=7)\n{frames}{MESSAGE}\n"


@pytest.mark.parametrize(
    ("functions", "words", "field"),
    [
        (("update_actor", "train_mini_batch", "forward_step"), "in the update", "ppo_max_token_len_per_gpu"),
        (("update_actor", "train_batch", "optimizer_step", "step"), "in the optimizer's step", "offload_policy=true"),
        (
            ("compute_log_prob", "infer_batch", "forward_backward_batch", "forward_step"),
            "in the trainer's log-probs",
            "log_prob_max_token_len_per_gpu",
        ),
        (("run_engine_core", "initialize_from_config", "initialize_kv_cache"), "engine's KV cache", "gpu_memory_util"),
        (("determine_available_memory", "profile_run", "_dummy_run"), "before it makes its KV cache", "max_num_seqs"),
        (("compile_or_warm_up_model", "capture_model"), "capturing the engine's graphs", "enforce_eager=true"),
        (("update_weights", "send"), "handing weights to the engine", "update_weights_bucket_megabytes"),
        (("init_model", "_build_model_optimizer", "to"), "loading the trainer's model", "offload_policy=true"),
    ],
)
def test_the_phase_and_its_field_are_told(functions: tuple[str, ...], words: str, field: str) -> None:
    ending = explain(traceback(*functions), "", FACTS)
    assert ending.name == "memory: GPU"
    assert words in ending.cause
    assert "Tried to allocate 2.32 GiB; GPU 0 has a total capacity of 79.11 GiB" in ending.cause
    assert field in ending.remedy
    assert "trm doctor --plan" in ending.remedy


def test_a_phase_in_the_engine_s_log_is_found_behind_the_drivers_words() -> None:
    told = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
    lines = ["Traceback (most recent call last):", *traceback("initialize_kv_cache").splitlines()[1:]]
    log = "\n".join(f"(EngineCore_DP0 pid=77) ERROR 11-28 09:31:47 [core.py:396] {line}" for line in lines)
    ending = explain(told, log, FACTS)
    assert (ending.name, "making the engine's KV cache" in ending.cause) == ("memory: GPU", True)


def test_a_stack_of_other_functions_has_no_phase() -> None:
    assert explain(traceback("main", "fit"), "", FACTS).cause.startswith("out of GPU memory: Tried to allocate")


def test_another_ending_under_the_same_functions_stays_as_it_is() -> None:
    other = traceback("update_actor").replace(MESSAGE, "OSError: [Errno 28] No space left on device")
    assert explain(other, "", FACTS).name == "disk full"


def test_the_functions_are_those_of_verl_and_vllm() -> None:
    import importlib.util

    roots = [Path(str(importlib.util.find_spec(name).origin)).parent for name in ("verl", "vllm")]  # type: ignore[union-attr]
    folders = ("workers", "v1/worker", "v1/executor", "model_executor/model_loader")
    sources = [path.read_text() for root in roots for folder in folders for path in (root / folder).rglob("*.py")]
    missing = [
        name for phase in PHASES for name in phase.functions if not any(f"def {name}(" in source for source in sources)
    ]
    assert missing == []
