"""A packed forward pass is the padded one: log-probs, gradients and divergences at the tokens that were sampled."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("verl")

from tensordict import TensorDict
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.masking_utils import create_causal_mask
from verl.utils import tensordict_utils as tu
from verl.utils.torch_functional import entropy_from_logits
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from trm_agent.verl_plugin.actor import packed_engine
from trm_agent.verl_plugin.actor.divergences import policy_log_probs, rollout_divergences
from trm_agent.verl_plugin.actor.packed import SHORT_WINDOW, _Sample, pack
from trm_agent.verl_plugin.actor.packed_attention import ATTENTION, register
from trm_agent.verl_plugin.rollout.distributions import FULL_LOG_PROBS

VOCAB = 23
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_implementation": "sdpa",
}
# prompts and responses of four sequences, one of a single unsampled token as verl fills a batch up with
LENGTHS = ((3, 6), (2, 9), (1, 1), (5, 2))


def model(kind: str = "qwen3", window: int = 3, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    made = {
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(head_dim=4, tie_word_embeddings=True, **SIZES | options)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES | options)),
        "window": lambda: MistralForCausalLM(MistralConfig(sliding_window=window, head_dim=4, **SIZES | options)),
    }[kind]().float()
    # the scale of a trained model: fresh weights make logits that hardly depend on the context
    for parameter in made.parameters():
        parameter.data.mul_(10)
    return made


class Engine(packed_engine.PackedMixin, FSDPEngineWithLMHead):
    """The forward pass of verl's engine around a plain module."""

    def __init__(self, module: torch.nn.Module, packed: bool, group: Any = None) -> None:
        self.module, self.use_ulysses_sp, self.pad_to_length = module, group is not None, False
        self.ulysses_parallel_group = group
        self.ulysses_sequence_parallel_size = 1 if group is None else torch.distributed.get_world_size(group)
        self.engine_config = SimpleNamespace(entropy_checkpointing=False, entropy_from_logits_with_chunking=False)
        self.compute_entropy_from_logits = entropy_from_logits
        self.packing = pack(module, group=group) if packed else None

    def outputs(self, data: TensorDict) -> tuple[dict, torch.Tensor]:
        inputs, output_args = self.prepare_model_inputs(data)
        output = self.module(**inputs, use_cache=False)
        return self.prepare_model_outputs(output, output_args, data, None), output.logits


@pytest.fixture(autouse=True)
def without_an_accelerator(monkeypatch):
    monkeypatch.setattr(packed_engine, "get_device_name", lambda: "cpu")


def micro_batch() -> TensorDict:
    generator = torch.Generator().manual_seed(1)
    rows: dict[str, list] = {
        name: [] for name in ("prompts", "responses", "input_ids", "position_ids", "response_mask")
    }
    for prompt, response in LENGTHS:
        ids = torch.randint(VOCAB, (prompt + response,), generator=generator)
        mask = (torch.rand(response, generator=generator) < 0.6).long() if response > 1 else torch.zeros(1).long()
        for name, values in (
            ("prompts", ids[:prompt]),
            ("responses", ids[prompt:]),
            ("input_ids", ids),
            ("position_ids", torch.arange(len(ids))),
            ("response_mask", mask),
        ):
            rows[name].append(values)
    data = TensorDict(
        {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in rows.items()},
        batch_size=[len(LENGTHS)],
    )
    tu.assign_non_tensor(data, use_remove_padding=True, temperature=0.7, calculate_entropy=True)
    return data


def sampled(values: torch.Tensor, data: TensorDict) -> torch.Tensor:
    """The values at the positions that predict a sampled token, found with a loop."""
    found = []
    for row, (prompt, response), mask in zip(values.unbind(), LENGTHS, data["response_mask"].unbind(), strict=True):
        found += [row[prompt - 1 + place] for place in range(response) if mask[place]]
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["qwen3", "llama", "window"])
@pytest.mark.parametrize("with_recomputation", [False, True])
def test_packed_log_probs_and_gradients_are_those_of_padded_sequences(kind, with_recomputation):
    results = []
    for packed in (False, True):
        # in float32 gradients of thousands are rounded to more than they differ by
        data, module = micro_batch(), model(kind).double().train()
        engine = Engine(module, packed)
        assert (engine.packing is not None) == packed
        if with_recomputation:
            module.gradient_checkpointing_enable({"use_reentrant": False})
        outputs, logits = engine.outputs(data)
        assert logits.shape[1] == (len(sampled(outputs["log_probs"], data)) if packed else 11)
        log_probs, entropy = sampled(outputs["log_probs"], data), sampled(outputs["entropy"], data)
        (log_probs * torch.linspace(-1, 1, len(log_probs))).sum().backward()
        results.append((log_probs, entropy, *(parameter.grad for parameter in module.parameters())))
    assert results[0][0].std() > 0.5
    for padded, of_packed in zip(*results, strict=True):
        torch.testing.assert_close(of_packed, padded, atol=1e-9, rtol=1e-9)


def test_divergences_of_packed_logits_are_those_of_padded_ones():
    results = []
    for packed in (False, True):
        data, module = micro_batch(), model()
        tokens = len(data["responses"].values())
        roll = torch.randn(tokens, VOCAB, generator=torch.Generator().manual_seed(2)).log_softmax(-1)
        data[FULL_LOG_PROBS] = torch.nested.nested_tensor_from_jagged(roll, data["responses"].offsets())
        engine = Engine(module, packed)
        inputs, _ = engine.prepare_model_inputs(data)
        with torch.no_grad():
            logits = module(**inputs, use_cache=False).logits
        found = rollout_divergences(logits, data, engine.only_sampled)
        results.append((*found.named().values(), policy_log_probs(logits, data, engine.only_sampled)))
    assert results[0][0].max() > 0.1
    for padded, of_packed in zip(*results, strict=True):
        torch.testing.assert_close(of_packed, padded, atol=1e-5, rtol=1e-4)


def test_a_micro_batch_without_a_sampled_token_has_all_its_logits():
    data = micro_batch()
    data["response_mask"] = torch.nested.nested_tensor_from_jagged(
        torch.zeros_like(data["response_mask"].values()), data["response_mask"].offsets()
    )
    outputs, logits = Engine(model(), True).outputs(data)
    assert logits.shape[1] == len(data["input_ids"].values())
    assert len(outputs["log_probs"].values()) == logits.shape[1]


def leak(module: torch.nn.Module) -> None:
    """Let a layer read its neighbour's state, as a convolution does: across the borders of packed sequences."""
    module.model.layers[0].register_forward_hook(lambda _, __, hidden: hidden + hidden.roll(1, dims=1))


def read_the_last_layer(module: torch.nn.Module) -> None:
    """Let the head see a mean over rows of the last layer, which no longer are all computed."""
    module.model.norm.register_forward_hook(lambda _, __, hidden: hidden + hidden.mean(dim=1, keepdim=True))


@pytest.mark.parametrize("spoil", [leak, read_the_last_layer])
def test_a_model_that_mixes_sequences_stays_padded(spoil):
    module = model()
    spoil(module)
    engine = Engine(module, True)
    assert (engine.packing, module.config._attn_implementation) == (None, "sdpa")
    data = micro_batch()
    _, logits = engine.outputs(data)
    assert logits.shape[:2] == (len(LENGTHS), 11)


def test_a_model_with_another_attention_is_left_alone():
    module = model()
    module.config._attn_implementation = "eager"
    assert pack(module) is None
    assert module.config._attn_implementation == "eager"


def test_a_model_whose_last_layer_does_more_than_its_rows_computes_all_of_them():
    module = model()
    mlp = module.model.layers[-1].mlp
    original = mlp.forward
    mlp.forward = lambda hidden: original(hidden) + (hidden.shape[1] == 6)
    packing = pack(module)
    assert packing is not None
    assert (packing.takes_rows, module.config._attn_implementation) == (False, ATTENTION)
    assert mlp.forward(torch.zeros(1, 7, 16)).shape == (1, 7, 16)


def windowed_in_its_mask_alone(window: int) -> torch.nn.Module:
    return PhimoeForCausalLM(PhimoeConfig(sliding_window=window, num_local_experts=2, **SIZES))


def chunked() -> torch.nn.Module:
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes = SIZES | {"head_dim": 4, "intermediate_size_mlp": 24, "num_local_experts": 2}
    return Llama4ForCausalLM(Llama4TextConfig(attention_chunk_size=16, **sizes, **tokens))


@pytest.mark.parametrize(
    "make",
    [partial(windowed_in_its_mask_alone, 16), partial(windowed_in_its_mask_alone, 1000), chunked],
    ids=["a short window", "a long window", "chunks"],
)
def test_a_model_whose_mask_holds_what_the_attention_is_not_told_stays_padded(make):
    module = make().float()
    assert pack(module) is None
    assert module.config._attn_implementation == "sdpa"


def test_a_mask_of_the_models_own_is_refused():
    register()
    module = model()
    module.config._attn_implementation = ATTENTION
    given = {"config": module.config, "inputs_embeds": torch.zeros(1, 4, 16), "attention_mask": None}
    given |= {"past_key_values": None, "position_ids": torch.arange(4).unsqueeze(0)}
    assert create_causal_mask(**given).shape == (1, 1, 0, 0)
    with pytest.raises(ValueError, match="own"):
        create_causal_mask(**given, or_mask_function=lambda _, __, query, key: query >= 200)


@pytest.mark.parametrize("window", [20, SHORT_WINDOW + 1])
def test_a_window_that_the_attention_is_told_holds_beyond_the_probe(window):
    module = model("window", window)
    generator = torch.Generator().manual_seed(4)
    sequences = [torch.randint(VOCAB, (length,), generator=generator) for length in (window + 30, window - 1)]
    long = _Sample(sequences, torch.tensor([1, window + 25, window + 40]))
    with torch.no_grad():
        expected = long.padded(module)
        packing = pack(module)
        found = long.packed(module, packing, long.rows)
    torch.testing.assert_close(found, expected[long.rows], atol=1e-4, rtol=1e-4)


def with_images() -> torch.nn.Module:
    text = {name: size for name, size in SIZES.items() if name != "attn_implementation"} | {"head_dim": 4}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, attn_implementation="sdpa")
    return Gemma3ForConditionalGeneration(config).float()


def test_a_model_with_images_is_probed_by_its_text_part():
    module = with_images()
    assert not hasattr(module.config, "vocab_size")
    assert pack(module) is not None
    attentions = (module.config.text_config._attn_implementation, module.config.vision_config._attn_implementation)
    assert attentions == (ATTENTION, "sdpa")


def test_a_model_that_cannot_be_probed_at_all_is_left_alone():
    module = model()
    module.register_forward_pre_hook(lambda *_: 1 / 0)
    assert pack(module) is None
    assert module.config._attn_implementation == "sdpa"
