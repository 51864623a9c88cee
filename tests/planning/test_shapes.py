"""Sizes of models against the models themselves, built without values, and models that the hub has given."""

import json
from pathlib import Path

import pytest

from trm_agent.runs.compose import choices
from trm_agent.runs.planning.hub import cached_folder, has_weights, unreachable
from trm_agent.runs.planning.shapes import CHOICES, KNOWN, ModelShape, from_config, shape_of

TINY = ModelShape("tiny", 2, 32, 4, 2, 8, 48, 100, True, True, 512)


def config_of(shape: ModelShape) -> dict[str, object]:
    return {
        "model_type": "qwen3" if shape.head_norms else "llama",
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.mlp,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": shape.context,
    }


@pytest.mark.slow
@pytest.mark.parametrize("shape", [TINY, *KNOWN.values()], ids=lambda shape: shape.name)
def test_parameters_and_the_largest_matrix_are_those_of_the_model(shape: ModelShape) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = config_of(shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(str(config.pop("model_type")), **config))
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert (sum(sizes), max(sizes)) == (shape.parameters, shape.largest_tensor)
    assert sum(p.numel() for p in model.model.layers[0].parameters()) == shape.layer_parameters


def test_a_config_is_read_as_it_was_written() -> None:
    for shape in KNOWN.values():
        assert from_config(config_of(shape), shape.name) == shape


def test_a_model_of_experts_or_of_another_kind_has_no_shape() -> None:
    assert from_config({**config_of(TINY), "num_experts": 8}, "moe") is None
    assert from_config({"model_type": "mamba", "hidden_size": 8}, "mamba") is None


def test_keys_and_values_are_two_for_each_layer_and_head() -> None:
    # 2 * 36 layers * 8 heads * 128 * 2 bytes
    assert KNOWN["Qwen/Qwen3-8B"].cache_bytes(2) == 147_456
    # over 16 devices each of the 8 heads is kept twice
    assert KNOWN["Qwen/Qwen3-8B"].cache_bytes(2, 16) == 147_456 // 8


def test_every_model_of_the_configuration_has_a_shape() -> None:
    assert set(choices("model")) - {"hub", "nano"} <= CHOICES.keys()
    # and the one that refusals of a long context name
    assert {*CHOICES.values(), "Qwen/Qwen3-4B-Instruct-2507"} == KNOWN.keys()


def test_a_folder_and_a_downloaded_model_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub" / "models--mine--tiny" / "snapshots" / "0a"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(config_of(TINY)))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert cached_folder("mine/tiny") is None, "a snapshot without weights has not been downloaded"
    (snapshot / "model.safetensors").touch()
    assert cached_folder("mine/tiny") == snapshot
    assert shape_of("mine/tiny") == TINY
    assert shape_of(str(snapshot)).parameters == TINY.parameters  # type: ignore[union-attr]
    assert shape_of("mine/other") is None


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_a_download_that_was_cut_off_is_none(kind: str, tmp_path: Path) -> None:
    name, _, end = kind.partition(".")
    parts = [f"{name}-0000{number}-of-00002.{end}" for number in (1, 2)]
    (tmp_path / "config.json").touch()
    (tmp_path / parts[0]).touch()
    assert not has_weights(tmp_path), "a part without an index"
    index = tmp_path / f"{kind}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": parts[0], "b": parts[1], "c": parts[1]}}))
    assert not has_weights(tmp_path)
    # the hub's cache links to blobs, which may be missing
    (tmp_path / parts[1]).symlink_to(tmp_path / "blob")
    assert not has_weights(tmp_path)
    (tmp_path / "blob").touch()
    assert has_weights(tmp_path)
    for broken in ("{", "[]", '{"weight_map": {}}'):
        index.write_text(broken)
        assert not has_weights(tmp_path)


def test_a_hub_that_is_switched_off_or_does_not_answer_cannot_be_asked() -> None:
    assert unreachable({"HF_HUB_OFFLINE": "1"}) == "HF_HUB_OFFLINE=1"
    # a port of this machine on which nobody listens
    assert unreachable({"HF_ENDPOINT": "http://127.0.0.1:9"}) == "127.0.0.1 does not answer"
