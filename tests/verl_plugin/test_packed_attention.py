"""Attention over packed sequences: torch's kernel is called as each torch wants it, for what calls a sequence compute.

The kernel itself needs CUDA. Its installed function runs here on tensors without data, and a stand-in that follows its
documentation computes.
"""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

pytest.importorskip("verl")

from trm_agent.verl_plugin.actor import packed_attention as subject
from trm_agent.verl_plugin.actor.packed_attention import PackedRow, kernel_options, packed_attention

LENGTHS = (5, 1, 9)
HEADS, WIDTH = 4, 8


def states(keys: int, **options: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, heads, sum(LENGTHS), WIDTH, **options) for heads in (HEADS, keys, keys)]


def documented(query, key, value, borders, scale, window, grouped):
    """What torch documents, token by token: (left, 0) shows `left` tokens before a query's own, -1 for all."""
    assert grouped or query.shape[1] == key.shape[1]
    outputs = torch.empty_like(query)
    for start, stop in zip(borders.tolist(), borders.tolist()[1:], strict=False):
        for token in range(start, stop):
            first = start if window[0] == -1 else max(start, token - window[0])
            for head in range(query.shape[1]):
                of_key = head * key.shape[1] // query.shape[1]
                scores = key[first : token + 1, of_key] @ query[token, head]
                weights = (scores * (query.shape[-1] ** -0.5 if scale is None else scale)).softmax(-1)
                outputs[token, head] = weights @ value[first : token + 1, of_key]
    return outputs


def of_torch_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    assert cu_seq_q is cu_seq_k
    assert max_q == max_k == max(LENGTHS)
    return documented(query, key, value, cu_seq_q, scale, window_size, True)


def of_torch_2_13(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    return documented(query, key, value, cu_seq_q, scale, window_size, enable_gqa)


@pytest.mark.parametrize("kernel", [of_torch_2_11, of_torch_2_13])
@pytest.mark.parametrize("keys", [4, 2, 1])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_the_kernel_is_asked_for_what_calls_a_sequence_compute(kernel, keys, window, monkeypatch):
    monkeypatch.setattr(subject, "_kernel", lambda: (kernel, frozenset(inspect.signature(kernel).parameters)))
    row, options = PackedRow.of(LENGTHS, "cpu"), {"dropout": 0.0, "scaling": 0.3, "window": window}
    given = states(keys, dtype=torch.float64)
    found = subject._by_kernel(*given, row, **options)
    torch.testing.assert_close(found, subject._by_sequence(*given, row, **options), atol=1e-12, rtol=1e-12)


def test_the_installed_kernel_takes_these_arguments_forward_and_backward():
    attend, parameters = subject._kernel()
    assert {"window_size", "scale"} <= parameters
    given = [each.requires_grad_() for each in states(2, dtype=torch.bfloat16, device="meta")]
    row = PackedRow.of(LENGTHS, "meta")
    output = subject._by_kernel(*given, row, dropout=0.0, scaling=0.3, window=3)
    assert (output.shape, output.dtype) == ((1, HEADS, sum(LENGTHS), WIDTH), torch.bfloat16)
    output.backward(torch.empty_like(output))
    assert [each.grad.shape for each in given] == [each.shape for each in given]
    # one that is not known would not be silently dropped
    with pytest.raises(TypeError):
        attend(*[None] * 7, **kernel_options(parameters, True, 0.3, 3), unknown=1)


def test_a_layer_calls_the_kernel_once_and_waits_for_no_device(monkeypatch):
    """On tensors without data, whose values nobody can read: `item` raises."""
    subject.register()
    attend, parameters = subject._kernel()
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(subject, "_kernel", lambda: (lambda *a, **k: calls.append(k) or attend(*a, **k), parameters))
    monkeypatch.setattr(subject, "_has_kernel", lambda *_: True)
    # a device without data has no autocast
    monkeypatch.setattr(subject, "_lowered", lambda *states: states)
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_attention_heads": HEADS, "num_key_value_heads": 2}
    config = MistralConfig(sliding_window=3, head_dim=WIDTH, num_hidden_layers=1, **sizes)
    config._attn_implementation = subject.ATTENTION
    with torch.device("meta"):
        layer = MistralForCausalLM(config).to(torch.bfloat16).model.layers[0]
        hidden, turned = (torch.empty(1, sum(LENGTHS), width, dtype=torch.bfloat16) for width in (32, WIDTH))
    row, mask = PackedRow.of(LENGTHS, "meta"), subject._marker(local_size=3)
    output = layer(hidden, attention_mask=mask, position_embeddings=(turned, turned), packed_row=row)
    output.sum().backward()
    assert calls == [{"scale": WIDTH**-0.5, "window_size": (2, 0), "enable_gqa": True}]
    assert layer.self_attn.k_proj.weight.grad.shape == (2 * WIDTH, 32)


def test_cumulative_lengths_are_found_once():
    row = PackedRow.of(LENGTHS, "cpu")
    assert (row.borders.tolist(), row.borders.dtype, row.longest) == ([0, 5, 6, 15], torch.int32, 9)


@pytest.mark.parametrize(
    "asked",
    [
        {"softcap": 50.0},
        {"s_aux": torch.zeros(HEADS)},
        {"is_causal": False},
        {"attention_mask": torch.empty(1, 1, 0, 3)},
    ],
    ids=["a cap", "sinks", "not causal", "another window"],
)
def test_what_it_does_not_compute_is_refused(asked):
    given = {"attention_mask": torch.empty(1, 1, 0, 0), "packed_row": PackedRow.of(LENGTHS, "cpu")}
    module = SimpleNamespace(is_causal=True)
    output, weights = packed_attention(module, *states(2), **given)
    assert (output.shape, weights) == ((1, sum(LENGTHS), HEADS, WIDTH), None)
    with pytest.raises(ValueError, match=r"is not the layer's|not causal, or with"):
        packed_attention(module, *states(2), **given | asked)


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_an_autocast_rounds_what_the_attention_gets(lower, given):
    query, *_ = states(2, dtype=given)
    with torch.autocast("cpu", lower):
        (found,) = subject._lowered(query)
    # before torch's own attention, which would round by itself, chooses its computation
    torch.testing.assert_close(found, query.to(lower), atol=0, rtol=0)
    assert subject._lowered(query)[0] is query
    with torch.autocast("cpu", lower, enabled=False):
        assert subject._lowered(query)[0] is query


def test_states_that_an_autocast_has_rounded_go_to_the_kernel(monkeypatch):
    row, asked = PackedRow.of(LENGTHS, "cpu"), []

    def is_half(query: torch.Tensor, value: torch.Tensor, dropout: float) -> bool:
        asked.append((query.dtype, value.dtype, dropout))
        return query.dtype == torch.bfloat16

    def stand_in(query: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return torch.full_like(query, 7)

    monkeypatch.setattr(subject, "_has_kernel", is_half)
    monkeypatch.setattr(subject, "_kernel", lambda: (stand_in, frozenset()))
    given = {"attention_mask": torch.empty(1, 1, 0, 0), "packed_row": row}
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = packed_attention(SimpleNamespace(is_causal=True), *states(2), **given)
    torch.testing.assert_close(output, torch.full((1, sum(LENGTHS), HEADS, WIDTH), 7, dtype=torch.bfloat16))
    output, _ = packed_attention(SimpleNamespace(is_causal=True), *states(2), **given)
    assert (output.dtype, bool((output == 7).any())) == (torch.float32, False)
    assert asked == [(dtype, dtype, 0.0) for dtype in (torch.bfloat16, torch.float32)]


# what the kernel takes, and changes with which it does not
ABLE = {
    "is_cuda": True,
    "dtype": torch.bfloat16,
    "width": 128,
    "value_width": None,
    "capability": (8, 0),
    "dropout": 0.0,
    "parameters": frozenset({"window_size", "scale"}),
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"dtype": torch.float16}, True),
        ({"width": 64}, True),
        ({"width": 256}, True),
        ({"capability": (9, 0)}, True),
        ({"capability": (12, 0)}, True),
        ({"is_cuda": False}, False),
        ({"dtype": torch.float32}, False),
        ({"width": 264}, False),
        ({"width": 12}, False),
        ({"width": 192, "value_width": 128}, False),
        ({"capability": (7, 5)}, False),
        ({"dropout": 0.1}, False),
        # of torch 2.10, and before it
        ({"parameters": frozenset({"scale"})}, False),
        ({"parameters": frozenset()}, False),
    ],
    ids=str,
)
def test_the_kernel_is_called_for_what_it_takes_and_nothing_else(changes, expected, monkeypatch):
    """On what stands for tensors of CUDA: only these properties are read."""
    case = ABLE | changes
    monkeypatch.setattr(subject, "_capability", lambda _: case["capability"])
    monkeypatch.setattr(subject, "_kernel", lambda: (None, case["parameters"]))
    made = {"is_cuda": case["is_cuda"], "dtype": case["dtype"], "device": "cuda:0"}
    query = SimpleNamespace(shape=(1, 4, 9, case["width"]), **made)
    value = SimpleNamespace(shape=(1, 4, 9, case["value_width"] or case["width"]), **made)
    assert subject._has_kernel(query, value, case["dropout"]) is expected
