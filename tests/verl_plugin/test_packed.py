"""A packed forward pass is the padded one: log-probs, gradients and divergences at the tokens that were sampled."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("verl")

from tensordict import TensorDict
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM
from verl.utils import tensordict_utils as tu
from verl.utils.torch_functional import entropy_from_logits
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from trm_agent.verl_plugin.actor import packed_engine
from trm_agent.verl_plugin.actor.divergences import policy_log_probs, rollout_divergences
from trm_agent.verl_plugin.actor.packed import ATTENTION, pack
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


def model(kind: str = "qwen3", **options) -> torch.nn.Module:
    torch.manual_seed(0)
    made = {
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(head_dim=4, tie_word_embeddings=True, **SIZES, **options)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **options)),
        "window": lambda: MistralForCausalLM(MistralConfig(sliding_window=3, head_dim=4, **SIZES, **options)),
    }[kind]().float()
    # the scale of a trained model: fresh weights make logits that hardly depend on the context
    for parameter in made.parameters():
        parameter.data.mul_(10)
    return made


class Engine(packed_engine.PackedMixin, FSDPEngineWithLMHead):
    """The forward pass of verl's engine around a plain module."""

    def __init__(self, module: torch.nn.Module, packed: bool) -> None:
        self.module, self.use_ulysses_sp, self.pad_to_length = module, False, False
        self.engine_config = SimpleNamespace(entropy_checkpointing=False, entropy_from_logits_with_chunking=False)
        self.compute_entropy_from_logits = entropy_from_logits
        self.packing = pack(module) if packed else None

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
        data, module = micro_batch(), model(kind).train()
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
        torch.testing.assert_close(of_packed, padded, atol=1e-5, rtol=1e-4)


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
