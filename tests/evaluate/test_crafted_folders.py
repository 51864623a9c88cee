"""Folders that somebody else made: an evaluation runs nothing in them, and says what is wrong."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluate.test_checkpoints import CONFIG, fsdp, hugging_face, run_folder
from trm_agent.evaluate.checkpoints.merging import merge
from trm_agent.evaluate.checkpoints.source import parse_checkpoint
from trm_agent.evaluate.engines.opening import load_tokenizer


class Program:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._mark}",)


def test_a_shard_that_holds_a_program_is_not_merged(tmp_path: Path) -> None:
    mark = tmp_path / "it_ran"
    fsdp(tmp_path / "actor", num_ranks=1)
    torch.save({"weight": Program(mark)}, tmp_path / "actor" / "model_world_size_1_rank_0.pt")
    with pytest.raises(ValueError, match=r"rank_0.pt: holds more than tensors: reading it would call \w+.system"):
        merge(tmp_path / "actor", tmp_path / "merged")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "shard-1.bin"])
def test_weights_in_a_pickle_that_holds_a_program_are_refused(tmp_path: Path, name: str) -> None:
    mark, folder = tmp_path / "it_ran", hugging_face(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    if name != "pytorch_model.bin":
        index = {"weight_map": {"embed": name}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    torch.save({"embed": torch.ones(8, 4)}, folder / name)
    assert parse_checkpoint(str(folder)).kind == "huggingface"
    torch.save({"embed": Program(mark)}, folder / name)
    with pytest.raises(ValueError, match=f"{name}: holds more than tensors"):
        parse_checkpoint(str(folder))
    # safetensors stand first: the pickle beside them is never opened
    hugging_face(folder)
    assert parse_checkpoint(str(folder)).kind == "huggingface"
    assert not mark.exists()


@pytest.mark.parametrize(
    "named",
    [
        {"attn_implementation": "somebody/kernel"},
        {"_attn_implementation": "somebody/kernel@main:function"},
        {"experts_implementation": "somebody/kernel"},
        {"_attn_implementation_internal": {"": "sdpa", "text_config": "somebody/kernel"}},
        {"text_config": {"attn_implementation": "somebody/kernel"}},
    ],
)
def test_a_configuration_that_names_code_of_the_hub_is_refused(tmp_path: Path, named: dict[str, Any]) -> None:
    folder = hugging_face(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "attn_implementation": "sdpa"}))
    assert parse_checkpoint(str(folder)).kind == "huggingface"
    (folder / "config.json").write_text(json.dumps({**CONFIG, **named}))
    with pytest.raises(ValueError, match=r"config\.json: .*somebody/kernel.* names code of the hub"):
        parse_checkpoint(str(folder))


def test_code_beside_a_model_is_not_run_and_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hugging_face(tmp_path / "model")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\nclass Mine: pass\n")
    mapped = {"auto_map": {"AutoTokenizer": ["code.Mine", None], "AutoConfig": "code.Mine"}, "model_type": "mine"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Mine", **mapped}))
    (folder / "config.json").write_text(json.dumps({**CONFIG, **mapped}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run it"))
    with pytest.raises(ValueError, match=r"tokenizer cannot be loaded(.|\n)*trust_remote_code"):
        load_tokenizer(folder)
    assert not (tmp_path / "it_ran").exists()
    assert not [name for name in sys.modules if name.endswith("code.Mine")]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(1).expand(1 << 40), "of which the file holds 4 bytes"),
        (torch.zeros(4, 1).expand(4, 1 << 30), "of which the file holds 16 bytes"),
        ("text", "a str in one of the shards, expected a tensor"),
        (None, "a NoneType in one of the shards"),
    ],
)
def test_a_shard_that_stands_for_more_than_it_holds_is_not_merged(tmp_path: Path, weight: Any, message: str) -> None:
    fsdp(tmp_path / "actor", num_ranks=1)
    torch.save({"weight": weight}, tmp_path / "actor" / "model_world_size_1_rank_0.pt")
    with pytest.raises(ValueError, match=message):
        merge(tmp_path / "actor", tmp_path / "merged")


DEEP = "[" * 100_000
LONG = "1" * 5000


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", DEEP, "config.json: not JSON that can be read .*recursion"),
        ("config.json", '{"vocab_size": "many"}', "vocab_size = 'many': expected a number of at least 1"),
        ("config.json", f'{{"vocab_size": {LONG}}}', "not JSON that can be read .*5000 digits"),
        ("tokenizer.json", '{"model": []}', "not a tokenizer that could be read"),
        ("tokenizer.json", '{"added_tokens": [{}]}', "not a tokenizer that could be read"),
        ("tokenizer.json", DEEP, "tokenizer.json: not JSON that can be read .*recursion"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../../x"}}', "expected files beside it"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 3}}', "expected files beside it"),
        ("model.safetensors.index.json", '{"weight_map": []}', "expected files beside it"),
    ],
)
def test_a_damaged_description_is_a_clear_error(tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = hugging_face(tmp_path)
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_checkpoint(str(folder))


@pytest.mark.parametrize(
    "header", [DEEP, "[]", '{"a": 1}', '{"a": {"data_offsets": []}}', '{"a": {"data_offsets": ["x", {}]}}']
)
def test_a_damaged_header_of_weights_is_a_clear_error(tmp_path: Path, header: str) -> None:
    folder = hugging_face(tmp_path)
    data = header.encode()
    (folder / "model.safetensors").write_bytes(len(data).to_bytes(8, "little") + data)
    with pytest.raises(ValueError, match="cut or not a file of weights"):
        parse_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("checkpoints/latest_checkpointed_iteration.txt", "x" * 500, "expected the step of the last checkpoint"),
        ("checkpoints/latest_checkpointed_iteration.txt", LONG, "expected the step of the last checkpoint"),
        ("metrics.jsonl", '{"step": 10}\n' + DEEP + "\n", "metrics.jsonl, line 2: nested more than"),
        ("metrics.jsonl", f'{{"step": 1{LONG}}}\n', "metrics.jsonl, line 1: an integer of 5001 digits"),
        ("metrics.jsonl", "[]\n", "metrics.jsonl, line 1: a list, not an object"),
        ("metrics.jsonl", "{}\n", "metrics.jsonl, line 1: step = 'None', expected a number"),
        ("checkpoints/global_step_20/actor/fsdp_config.json", '{"world_size": 1000000000000}', "a number of shards"),
    ],
)
def test_a_damaged_run_folder_is_a_clear_error(tmp_path: Path, file: str, text: str, message: str) -> None:
    run = run_folder(tmp_path / "run")
    (run / "checkpoints" / "global_step_x" / "actor").mkdir(parents=True)
    assert parse_checkpoint(str(run)).label == "run step 20"
    (run / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_checkpoint(str(run))


@pytest.mark.parametrize("text", ["- " * 100_000, "[" * 100_000, f"a: {LONG}", "a: 2001-99-99", "just text", "nano: 1"])
def test_the_start_of_a_run_with_a_damaged_configuration_is_a_clear_error(tmp_path: Path, text: str) -> None:
    run = run_folder(tmp_path / "run", ())
    (run / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config.yaml: names no model that a run began with"):
        parse_checkpoint(f"start:{run}")
