"""The probe of packing: what it leaves behind, what it lets through, and that it sees the model within wrappers."""

from typing import Any

import pytest
import torch

pytest.importorskip("verl")

from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from transformers import Gemma2Config, Gemma2ForCausalLM

from trm_agent.verl_plugin.actor import packed_engine
from trm_agent.verl_plugin.actor.packed import pack
from trm_agent.verl_plugin.actor.packed_attention import ATTENTION

from .test_packed import SIZES, Engine, leak, micro_batch, model, sampled

LIMITED = 6  # rows that the probe asks for


def capped() -> torch.nn.Module:
    """A model whose packed pass raises in its first layer."""
    return Gemma2ForCausalLM(Gemma2Config(head_dim=4, **SIZES)).float()


def fails_when_limited(error: type[Exception] = ValueError) -> torch.nn.Module:
    """A model whose last layer raises where it gets the rows alone that are asked for."""
    module = model()

    def refuse_few(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[1] == LIMITED:
            raise error("too few\nrows")

    module.model.layers[-1].mlp.gate_proj.register_forward_pre_hook(refuse_few)
    return module


def mixing() -> torch.nn.Module:
    module = model()
    leak(module)
    return module


@pytest.mark.parametrize("make", [capped, mixing, fails_when_limited])
def test_a_probe_that_fails_leaves_no_pass_of_fsdp_begun(make, one_rank):
    module, mesh = make(), init_device_mesh("cpu", (1,))
    for layer in module.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    packing = pack(module)
    assert packing is None or not packing.takes_rows
    # a root that is still within a pass would not wait for its parameters in the next one
    assert fully_shard.state(module)._state_ctx.iter_forward_root is None
    states = [fully_shard.state(each)._training_state.name for each in (module, *module.model.layers)]
    assert set(states) == {"IDLE"}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (capped, "packed pass raised ValueError: an attention that is not causal, or with softcap\n"),
        (fails_when_limited, "limited pass raised ValueError: too few\n"),
    ],
)
def test_why_a_probe_failed_is_told_in_a_line(make, told, capsys):
    pack(make())
    assert capsys.readouterr().out == f"engine: the probe's {told}"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, torch.distributed.DistBackendError])
def test_what_says_nothing_about_the_model_ends_the_run(error):
    with pytest.raises(error):
        pack(fails_when_limited(error))

    def refuse_packed(module: torch.nn.Module, *_: Any) -> None:
        if module.config._attn_implementation == ATTENTION:
            raise error("full")

    module = model()
    module.register_forward_pre_hook(refuse_packed)
    with pytest.raises(error):
        pack(module)


def adapted() -> torch.nn.Module:
    options = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    return get_peft_model(model(), options).double()


def in_fsdp_1(module: torch.nn.Module) -> torch.nn.Module:
    return FullyShardedDataParallel(module, device_id=torch.device("cpu"), use_orig_params=True)


WRAPPED = {
    "LoRA": adapted,
    "FSDP 1": lambda: in_fsdp_1(model().double()),
    "LoRA in FSDP 1": lambda: in_fsdp_1(adapted()),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_model_within_wrappers_computes_the_sampled_rows_alone(kind, one_rank, monkeypatch):
    monkeypatch.setattr(packed_engine, "get_device_name", lambda: "cpu")
    results, rows = [], []
    for packed in (False, True):
        torch.manual_seed(1)
        data, module = micro_batch(), WRAPPED[kind]()
        engine = Engine(module, packed)
        (last,) = (each for name, each in module.named_modules() if name.endswith("layers.1.mlp.down_proj"))
        last.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[1]))
        outputs, logits = engine.outputs(data)
        log_probs = sampled(outputs["log_probs"], data)
        (log_probs * torch.linspace(-1, 1, len(log_probs))).sum().backward()
        gradients = [each.grad for each in module.parameters() if each.grad is not None]
        results.append((log_probs, *gradients))
    assert engine.packing.takes_rows
    # of the padded pass 11 tokens a sequence; then the sampled ones of all
    assert rows == [11, len(log_probs)] == [11, logits.shape[1]]
    assert len(results[0]) > 2
    for padded, of_packed in zip(*results, strict=True):
        torch.testing.assert_close(of_packed, padded, atol=1e-9, rtol=1e-9)
