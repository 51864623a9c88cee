"""A model that the engine of a CPU cannot run is refused; a vocabulary with a surplus is told."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.model_traps import CPU_HEAD_SIZES, check_heads, told_vocabulary


def run(kind: str = "cpu", engine: str = "vllm") -> DictConfig:
    return OmegaConf.create({"hardware": {"kind": kind}, "actor_rollout_ref": {"rollout": {"name": engine}}})


@pytest.mark.parametrize("shape", [{"head_dim": 16}, {"hidden_size": 64, "num_attention_heads": 4}])
def test_heads_that_the_cpu_engine_lacks_are_refused(shape: dict[str, Any]):
    # 64 / 4 = 16
    with pytest.raises(ValueError, match=r"^actor_rollout_ref\.model\.path: got 'tiny', whose heads are 16 wide"):
        check_heads(run(), "tiny", shape)
    check_heads(run(kind="gpu"), "tiny", shape)
    check_heads(run(engine="sglang"), "tiny", shape)


@pytest.mark.parametrize(
    "shape",
    [{"head_dim": 128}, {"head_dim": None, "hidden_size": 192, "num_attention_heads": 6}, {"hidden_size": 8}, {}],
)
def test_heads_that_it_has_or_that_nobody_knows_are_not(shape: dict[str, Any]):
    # 192 / 6 = 32
    check_heads(run(), "tiny", shape)


def test_the_sizes_are_those_of_the_installed_engine():
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    file = Path(str(spec.origin)).parent / "v1" / "attention" / "backends" / "cpu_attn.py"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "get_supported_head_sizes":
            assert tuple(ast.literal_eval(node.body[-1].value)) == CPU_HEAD_SIZES
            return
    pytest.fail("vLLM has no such function")


def test_a_vocabulary_with_a_surplus_is_told():
    # 600 - 548 = 52
    assert "has 52 tokens more than its tokenizer" in told_vocabulary(600, 548)
    assert told_vocabulary(548, 548) == told_vocabulary(500, 548) == ""
