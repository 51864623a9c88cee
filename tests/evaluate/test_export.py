"""`trm export`: a checkpoint becomes a Hugging Face folder, complete or not at all."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tests.evaluate.test_checkpoints import CONFIG, fsdp, hugging_face, run_folder
from trm_agent import cli
from trm_agent.evaluate.checkpoints import shards
from trm_agent.evaluate.checkpoints.export import export
from trm_agent.evaluate.checkpoints.source import parse_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "runs" / "math-001")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint of two ranks, and its weights."""
    actor = tmp_path_factory.mktemp("checkpoint") / "actor"
    return actor, fsdp(actor)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_weights_are_those_of_the_shards_and_config_json_names_their_dtype(weights, dtype, tmp_path: Path) -> None:
    actor, whole = weights
    (actor / "huggingface" / "chat_template.jinja").write_text("{{ messages }}")
    done = export(parse_checkpoint(str(actor)), tmp_path / "deep" / "model", dtype)
    kind = torch.float32 if dtype is None else torch.bfloat16
    written = load_file(tmp_path / "deep" / "model" / "model.safetensors")
    # the head is the embedding itself
    assert set(written) == {"model.embed_tokens.weight", "odd", "scale"}
    assert all(torch.equal(written[name], whole[name].to(kind)) for name in ("model.embed_tokens.weight", "odd"))
    described = json.loads((tmp_path / "deep" / "model" / "config.json").read_text())
    assert described == {**CONFIG, "vocab_size": 5, "dtype": str(kind).removeprefix("torch.")}
    # 5 x 4 of the embedding, 3, and the scale
    assert (done.num_parameters, done.num_bytes) == (24, 24 * kind.itemsize)
    assert set(done.files) == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert parse_checkpoint(str(tmp_path / "deep" / "model")).kind == "huggingface"


def test_weights_beyond_one_file_get_an_index(weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    split = huggingface_hub.split_torch_state_dict_into_shards
    monkeypatch.setattr(
        huggingface_hub, "split_torch_state_dict_into_shards", lambda state: split(state, max_shard_size=30)
    )
    seen: list[tuple[int, int]] = []
    done = export(parse_checkpoint(str(weights[0])), tmp_path / "model", None, lambda *each: seen.append(each))
    assert sum(name.endswith(".safetensors") for name in done.files) == 2
    assert [file.name for file in parse_checkpoint(str(tmp_path / "model")).path.glob("*.index.json")]
    assert [total for _, total in seen] == [96, 96, 96]
    assert seen[-1][0] == 96


def test_the_command_says_what_it_wrote(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["export", f"{run}@10", str(tmp_path / "model")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("math-001 step 10: ")
    assert "24 parameters, float32, 0.0 MB: config.json, generation_config.json, model.safetensors" in out


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("{run}@30", "has no checkpoint of step 30 (steps whose checkpoints are kept: 10, 20"),
        (
            "{run}@x",
            "does not exist; allowed: a run folder (its last checkpoint), RUN@STEP, a global_step_N or actor folder\n",
        ),
        ("{run}s@10", "s does not exist; allowed: a run folder"),
        ("start:{run}s", "s does not exist; give a run folder after 'start:'"),
        ("=a", "a label and a source are needed around '='; allowed: a run folder (its last checkpoint), RUN@STEP"),
        ("nano", "RUN@STEP: got 'nano', which is no run but a model that is made"),
        ("smollm2", "RUN@STEP: got 'smollm2', which is no run but a model that is fetched"),
        ("{model}", "which is a Hugging Face folder already"),
        ("start:{run}", "which is no run but a model that is made"),
    ],
)
def test_what_is_not_a_checkpoint_of_a_training_is_refused(source, word, run: Path, tmp_path: Path, capsys) -> None:
    model = hugging_face(tmp_path / "model")
    assert cli.main(["export", source.format(run=run, model=model), str(tmp_path / "new")]) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_refused_and_left_alone(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    assert cli.main(["export", f"{run}@10", str(tmp_path / "full")]) == 2
    assert "which holds files; allowed: a new or an empty folder" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["notes"]
    assert cli.main(["export", f"{run}@10", str(tmp_path / "full" / "notes")]) == 2
    assert cli.main(["export", f"{run}@10", str(tmp_path / "full" / "notes" / "below")]) == 2
    assert "where nothing can be written" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["small disk", "full disk", "cut shard", "adapter", "signal", "head of another size"])
def test_nothing_is_left_of_an_export_that_fails(fault, run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    shard = run / "checkpoints" / "global_step_10" / "actor" / "model_world_size_1_rank_0.pt"
    expected: type[BaseException] | str = ""
    if fault == "small disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=95))
        expected = "0.0 MB needed, 0.0 MB free; make room"
    elif fault == "full disk":

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(shards.shutil, "copyfile", full)
        expected = "No space left on device"
    elif fault == "cut shard":
        shard.write_bytes(shard.read_bytes()[:-100])
        expected = "cut or not a file of weights"
    elif fault == "adapter":
        torch.save({"layer.lora_A.weight": torch.ones(2, 2)}, shard)
        expected = "a LoRA checkpoint"
    elif fault == "head of another size":
        config = shard.parent / "huggingface" / "config.json"
        config.write_text(json.dumps({**CONFIG, "vocab_size": 4}))
        expected = "ids up to 4, the model's vocabulary is 4"
    else:

        def ended(*_):
            raise SystemExit(143)

        monkeypatch.setattr(shards, "_whole", ended)
        expected = SystemExit
    words = ["export", f"{run}@10", str(tmp_path / "out" / "model")]
    if isinstance(expected, str):
        assert cli.main(words) == 2
        assert expected in capsys.readouterr().err
    else:
        with pytest.raises(expected):
            cli.main(words)
    assert list((tmp_path / "out").glob("*") if (tmp_path / "out").exists() else ()) == []
