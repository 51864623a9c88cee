"""A folder that is no good as a model: exit code 2 before Ray, one line that names it, no traceback, no run.

The folders hold a tokenizer and a few bytes of weights; one composition serves all.
"""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import hydra
import pytest

from tests.episode.forms import FORMS
from tests.episode.test_fallback import PLAIN, REFUSING
from tests.runs.test_bad_inputs import nano, refused, reuse
from trm_agent import train

pytestmark = pytest.mark.slow
SHAPE = {"model_type": "qwen3", "vocab_size": 5000, "max_position_embeddings": 40_000, "head_dim": 32}
# hermes: what auto stands for; long enough for a tokenizer that was not trained on the task
ROOM = {
    "data.max_prompt_length": 6_000,
    "data.max_response_length": 6_000,
    "actor_rollout_ref.rollout.max_model_len": "null",
    "env.limits.max_turn_tokens": 500,
}
TEMPLATE, CONFIG, WEIGHTS = "chat_template.jinja", "config.json", "model.safetensors"
TOKENIZER = FORMS["chatml_json"].tokenizer


def weights(length: int) -> bytes:
    """A file of one tensor of 64 bytes, of which so many are there."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * length


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with which a run would begin."""
    made = tmp_path / "model"
    TOKENIZER.save_pretrained(made)
    (made / CONFIG).write_text(json.dumps(SHAPE))
    (made / WEIGHTS).write_bytes(weights(64))
    return made


@pytest.fixture(autouse=True)
def before_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """One composition; a run that would begin ends with 0."""
    nano()
    monkeypatch.setattr(hydra, "compose", reuse)
    monkeypatch.setattr(train, "train", lambda *_: 0)
    monkeypatch.chdir(tmp_path)
    # the command sets `hardware.env_vars`
    with patch.dict(os.environ, HF_HUB_OFFLINE="1"):
        yield


def command(path: Path | str) -> str:
    return " ".join(
        f"{field}={value}" for field, value in {"actor_rollout_ref.model.path": f"'\"{path}\"'", **ROOM}.items()
    )


def shaped(**changes: object) -> Callable[[Path], object]:
    return lambda folder: (folder / CONFIG).write_text(json.dumps(SHAPE | changes))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / CONFIG).unlink(), "which has no config.json; allowed: "),
    "a config that is cut": (lambda folder: (folder / CONFIG).write_text("{"), "is not a valid JSON file"),
    "an unknown architecture": (shaped(model_type="odd"), "config.json cannot be loaded: "),
    "heads that the engine lacks": (shaped(head_dim=16), "whose heads are 16 wide, for which vLLM has no attention"),
    "a context too short": (shaped(max_position_embeddings=10_000), "allowed: 10000 tokens in all"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "which has no weights; allowed: "),
    "weights that are cut": (
        lambda folder: (folder / WEIGHTS).write_bytes(weights(60)),
        "model.safetensors: cut or not a file of weights",
    ),
    "weights that are a pointer": (
        lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"),
        "model.safetensors: cut or not a file of weights",
    ),
    "an index without its files": (
        lambda folder: (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "part-1.safetensors"}}'),
        "model.safetensors.index.json names 1 files, 1 of them are missing (part-1.safetensors)",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "which has no tokenizer; allowed: "),
    "a tokenizer that is cut": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        "the tokenizer cannot be loaded: ",
    ),
    "no template": (
        lambda folder: (folder / TEMPLATE).unlink(),
        "tokenizer.chat_template: the tokenizer has none, as that of a base model; put the template of its family",
    ),
    "a template that is cut": (
        lambda folder: (folder / TEMPLATE).write_text(PLAIN[:-20]),
        "tokenizer.chat_template: cannot render the roles ['user']: ",
    ),
    "a template that ends no turn": (
        lambda folder: (folder / TEMPLATE).write_text(
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        ),
        "so no turn would end; allowed: ",
    ),
    "a template that refuses users": (
        lambda folder: (folder / TEMPLATE).write_text(REFUSING % "user" + PLAIN),
        "cannot render the roles ['user']: no such role",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_cannot_be_trained_is_refused(fault: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    break_it, words = FAULTS[fault]
    break_it(folder)
    line = refused(command(folder), capsys)
    assert line.startswith(("error: actor_rollout_ref.model.path", "error: data.max_response_length"))
    assert words in line
    assert not (folder.parent / "runs").exists() or list((folder.parent / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (PLAIN, "the chat template shows no tools: the system prompt describes them and the form of a call"),
        (REFUSING % "system" + PLAIN, "the chat template shows no system message: the system prompt opens the first"),
        (REFUSING % "tool" + PLAIN, "the chat template shows no tool role: a tool's result is told as user"),
    ],
)
def test_what_a_template_leaves_out_is_told_and_the_run_begins(
    template: str, told: str, folder: Path, capsys: pytest.CaptureFixture[str]
):
    (folder / TEMPLATE).write_text(template)
    assert train.main(command(folder).replace("'", "").split()) == 0
    assert told in capsys.readouterr().out


def test_a_vocabulary_with_a_surplus_is_told_before_the_run(folder: Path, capsys: pytest.CaptureFixture[str]):
    shaped(vocab_size=len(TOKENIZER) + 52)(folder)
    assert train.main(command(folder).replace("'", "").split()) == 0
    assert "the model's vocabulary has 52 tokens more than its tokenizer" in capsys.readouterr().out


def test_a_hub_that_cannot_be_reached_is_told_with_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refused(command("org/nowhere"), capsys)
    assert "the hub (https://huggingface.co) cannot be reached for org/nowhere, and the model is not among the" in line
    assert "give a folder as actor_rollout_ref.model.path" in line
