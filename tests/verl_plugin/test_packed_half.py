"""In half precision the probe allows for rounding, and still finds a model that cannot be packed."""

import pytest
import torch

pytest.importorskip("verl")

from trm_agent.verl_plugin.actor.packed import HALF_LIMITS, _distance, _half_tolerance, pack
from trm_agent.verl_plugin.actor.packed_attention import ATTENTION

from .test_packed import leak, model, read_the_last_layer

HALF = torch.bfloat16


@pytest.mark.parametrize("kind", ["qwen3", "llama", "window"])
@pytest.mark.parametrize("weights", [torch.float32, HALF])
def test_a_model_that_computes_in_half_precision_is_packed(kind, weights):
    module = model(kind).to(weights)
    packing = pack(module, dtype=HALF)
    assert packing is not None
    assert (packing.takes_rows, module.config._attn_implementation) == (True, ATTENTION)


@pytest.mark.parametrize("spoil", [leak, read_the_last_layer])
@pytest.mark.parametrize("kind", ["qwen3", "llama", "window"])
def test_a_model_that_mixes_sequences_is_found_in_half_precision_too(kind, spoil):
    module = model(kind)
    spoil(module)
    assert pack(module, dtype=HALF) is None
    assert module.config._attn_implementation == "sdpa"


def test_the_tolerance_is_four_times_the_rounding_within_limits():
    expected = torch.tensor([[1.0, -1.0], [3.0, 1.0]])
    # an error of e in both logits of a row is a share e / sqrt(2) of their spread, 2 / sqrt(2)
    for error, allowed in (
        (0.0, HALF_LIMITS[0]),
        (0.05 * 2**0.5, 0.2),
        (1.0, HALF_LIMITS[1]),
        (torch.nan, HALF_LIMITS[1]),
    ):
        assert _half_tolerance(expected + error, expected) == pytest.approx(allowed)
    assert _distance(expected[:1], expected) == _distance(expected + torch.nan, expected) == torch.inf
