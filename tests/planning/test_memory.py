"""The memory model against what torch keeps, and against sums made by hand."""

from dataclasses import replace
from typing import Any

import pytest

from trm_agent.runs.planning import memory
from trm_agent.runs.planning.activations import entropy_bytes, kept_bytes, token_bytes, top_bytes
from trm_agent.runs.planning.layout import Layout, total
from trm_agent.runs.planning.machine import GIB
from trm_agent.runs.planning.shapes import KNOWN, ModelShape

EIGHT = KNOWN["Qwen/Qwen3-8B"]
ON_CPU = Layout(width=4, engine_width=4, by_sequence=True, on_cuda=False, checkpointing=False)
# without a norm of heads, and with
SHAPES = [
    ModelShape(name, 2, 96, 6, 2, 16, 256, 64, True, normed, 512)
    for name, normed in (("llama", False), ("qwen3", True))
]


def size_of(parts: list[memory.Part], word: str) -> int:
    (found,) = [part.size for part in parts if word in part.name]
    return found


def kept_by_torch(shape: ModelShape, width: int, tokens: int, checkpointing: bool, packed: bool = False) -> int:
    """Bytes that autograd keeps of a forward pass up to the logits, each storage once, parameters left out.

    Packed: two sequences in a row, with our attention.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.planning.test_shapes import config_of
    from trm_agent.verl_plugin.actor.packed import pack
    from trm_agent.verl_plugin.actor.packed_attention import PackedRow
    from trm_agent.verl_plugin.actor.shard import Shard

    sizes: Any = config_of(shape)
    config = AutoConfig.for_model(**sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(
        torch.float32 if width == 4 else torch.bfloat16
    )
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    given: dict[str, Any] = {}
    if packed:
        packing = pack(model)
        assert packing is not None
        half = tokens // 2
        row = PackedRow.of([half, half], "cpu")
        places = torch.arange(half).repeat(2).unsqueeze(0)
        given = {"attention_mask": None, "position_ids": places, **packing.arguments(row, Shard.of(tokens, None), None)}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ids = torch.arange(tokens).unsqueeze(0) % shape.vocab
        output = model(input_ids=ids, use_cache=False, **given).logits
    assert output.requires_grad
    return sum(storage.nbytes() for storage in held.values())


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_activations_are_what_autograd_keeps(shape: ModelShape, width: int) -> None:
    tokens = 256
    found = kept_by_torch(shape, width, tokens, checkpointing=False) / tokens
    # transformers' own attention takes the keys as they are; tables of positions are a few bytes a token
    planned = kept_bytes(shape, replace(ON_CPU, width=width, by_sequence=False))
    assert planned == pytest.approx(found, rel=0.06), (planned, found)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_our_packed_attention_keeps_repeated_keys_and_its_output_twice(shape: ModelShape) -> None:
    found = kept_by_torch(shape, 4, 256, checkpointing=False, packed=True) / 256
    assert kept_bytes(shape, ON_CPU) == pytest.approx(found, rel=0.02)


@pytest.mark.slow
def test_with_checkpointing_each_layer_keeps_its_input() -> None:
    shape, tokens = SHAPES[1], 256
    found = kept_by_torch(shape, 4, tokens, checkpointing=True) / tokens
    assert kept_bytes(shape, replace(ON_CPU, checkpointing=True)) == pytest.approx(found, rel=0.15)


def test_a_parameter_in_training_takes_sixteen_bytes_over_all_devices() -> None:
    # 4 of the parameter, 4 of its gradient, 8 of the moments: 8.19 billion of them over 8 devices are 16.4 GB each
    held = total(memory.states(EIGHT, Layout(devices=8)))
    assert held == pytest.approx(16 * 8.19e9 / 8, rel=1e-3)
    assert total(memory.states(EIGHT, Layout(devices=8, offload_policy=True))) == 0
    # in bfloat16 half of it; of an adapter the parameters alone
    assert total(memory.states(EIGHT, Layout(devices=8, stored=2))) == pytest.approx(held / 2, rel=1e-6)
    assert total(memory.states(EIGHT, Layout(devices=8, adapter=True))) == pytest.approx(held / 4, rel=1e-6)


def test_logits_on_a_gpu_are_there_twice_in_the_forward_pass_s_width() -> None:
    # 32,768 tokens of 151,936 logits, their gradient likewise, 2 bytes each
    parts = memory.update(EIGHT, Layout(devices=8), 32_768)
    assert size_of(parts, "logits and their gradients") == 32_768 * 151_936 * 4
    exact = memory.update(EIGHT, Layout(devices=8, exact=True), 32_768)
    assert size_of(exact, "logits and their gradients") == 32_768 * 151_936 * 8


def test_an_entropy_term_adds_a_gradient_of_the_logits_and_a_fused_kernel_leaves_them_out() -> None:
    parts = memory.update(EIGHT, Layout(devices=8, entropy_bytes=entropy_bytes(2, compiled=True)), 32_768)
    assert size_of(parts, "logits and their gradients") == 32_768 * 151_936 * 6
    # the probabilities and their gradient in float32 besides
    assert entropy_bytes(2, compiled=False) == 10
    what, size = top_bytes(EIGHT, Layout(devices=8, fused=True))
    assert what == "one layer and its gradients"
    assert size == top_bytes(EIGHT, Layout(devices=8), 0.0)[1]


def test_fewer_logits_than_tokens_need_less_until_a_layer_s_gradients_decide() -> None:
    layout = Layout(checkpointing=True)
    sizes = [top_bytes(KNOWN["Qwen/Qwen3-0.6B"], layout, share) for share in (1.0, 0.5, 0.0)]
    assert sizes[1][1] == sizes[0][1] // 2
    assert sizes[2][0] == "one layer and its gradients"
    assert sizes[2][1] < sizes[1][1]


def test_checkpointing_keeps_less_and_counts_one_layer_anew() -> None:
    kept = [kept_bytes(EIGHT, Layout(checkpointing=flag)) for flag in (False, True)]
    # 36 inputs of 4,096 values in two bytes, and the last norm
    assert kept[1] == 36 * 4096 * 2 + 4096 * 8
    assert kept[0] > 10 * kept[1]


def test_the_cache_is_what_the_engine_s_share_leaves() -> None:
    layout = Layout(devices=8, engine_share=0.5)
    parts = memory.generation(EIGHT, layout, 80 * GIB)
    inside = total(memory.engine(EIGHT, layout)) + memory.GRAPHS
    assert size_of(parts, "cache") == 40 * GIB - inside
    assert memory.cache_tokens(EIGHT, layout, 80 * GIB) == (40 * GIB - inside) // 147_456
    # two devices an engine hold half of the weights, and half of the keys of a token
    half = replace(layout, tensor_parallel=2)
    assert size_of(memory.engine(EIGHT, half), "weights") == EIGHT.parameters
    assert memory.cache_tokens(EIGHT, half, 80 * GIB) > 2.5 * memory.cache_tokens(EIGHT, layout, 80 * GIB)
    # a share below the weights leaves none
    assert memory.cache_tokens(EIGHT, replace(layout, engine_share=0.1), 80 * GIB) == 0


def test_the_whole_share_of_a_rank_passes_the_device_while_it_is_loaded() -> None:
    for layout in (Layout(devices=2), Layout(devices=2, offload_policy=True)):
        assert size_of(memory.loading(EIGHT, layout), "parameters") == 2 * EIGHT.parameters


def test_what_is_offloaded_leaves_the_device_between_updates_and_needs_the_host() -> None:
    every = Layout(devices=4)
    assert total(memory.resident(EIGHT, every)) == pytest.approx(12 * EIGHT.parameters / 4, rel=1e-6)
    away = replace(every, param_offload=True, optimizer_offload=True)
    assert memory.resident(EIGHT, away) == []
    # but an update has it all
    assert total(memory.update(EIGHT, away, 1024)) == total(memory.update(EIGHT, every, 1024))
    assert memory.host_bytes(EIGHT, away, 4) == 16 * EIGHT.parameters
    assert memory.host_bytes(EIGHT, every, 4) == 4 * EIGHT.parameters
    # one matrix for embedding and head: every process loads the whole
    tied = KNOWN["Qwen/Qwen3-4B"]
    assert memory.host_bytes(tied, every, 4) == 4 * 4 * tied.parameters


@pytest.mark.parametrize("flag", ["checkpointing", "offload_policy", "exact"])
def test_tokens_add_the_same_bytes_each(flag: str) -> None:
    layout = replace(Layout(checkpointing=False, devices=2), **{flag: True})
    one, two, four = (total(memory.update(EIGHT, layout, tokens)) for tokens in (1024, 2048, 4096))
    assert four - two == 2 * (two - one) == 2048 * token_bytes(EIGHT, layout)


def test_a_machine_without_a_gpu_holds_trainer_and_engine_at_once() -> None:
    small = KNOWN["HuggingFaceTB/SmolLM2-135M-Instruct"]
    parts = memory.on_cpu(small, ON_CPU, 2048)
    assert size_of(parts, "engine's weights") == 4 * small.parameters
    # the outer parameters with their gradient; two layers, and the gradient of one twice
    assert size_of(parts, "gathered") == 4 * (2 * small.outer_parameters + 4 * small.layer_parameters)
    assert size_of(parts, "logits and") == 2048 * 49_152 * 12
