"""From a user's text to a folder of weights: what is found, what is refused, what is merged."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file
from safetensors.torch import load_file

from trm_agent.evaluate import prepare
from trm_agent.evaluate.checkpoints import merging
from trm_agent.evaluate.checkpoints.model_files import content_hash
from trm_agent.evaluate.checkpoints.source import Checkpoint, fingerprint, parse_checkpoint
from trm_agent.evaluate.prepare import with_folder
from trm_agent.models.nano_spec import NanoSpec

VOCABULARY = 8
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": VOCABULARY,
    "hidden_size": 4,
    "dtype": "float32",
    "tie_word_embeddings": True,
}


def write_tokenizer(folder: Path, num_tokens: int = VOCABULARY) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {f"t{index}": index for index in range(num_tokens - 1)}
    added = [{"id": num_tokens - 1, "content": "<end>", "special": True}]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": added}))


def hugging_face(folder: Path, value: float = 1.0) -> Path:
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file({"embed": np.full((VOCABULARY, 4), value, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def split_weights(actor: Path, whole: dict[str, torch.Tensor], num_ranks: int) -> None:
    """Writes the shards as FSDP2's ranks do, one rank after the other in this process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    actor.mkdir(parents=True, exist_ok=True)
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": num_ranks}))
    for rank in range(num_ranks):
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=num_ranks)
        mesh = init_device_mesh("cpu", (num_ranks,), mesh_dim_names=("fsdp",))
        state = {}
        for name, weight in whole.items():
            parts = [*weight.chunk(num_ranks), *[weight[:0]] * num_ranks]
            local = parts[rank].clone()
            state[name] = DTensor.from_local(
                local, mesh, [Shard(0)], run_check=False, shape=weight.shape, stride=weight.stride()
            )
        state["scale"] = torch.tensor(0.1)
        torch.save(state, actor / f"model_world_size_{num_ranks}_rank_{rank}.pt")
        torch.distributed.destroy_process_group()


def fsdp(actor: Path, num_ranks: int = 2) -> dict[str, torch.Tensor]:
    """Writes a checkpoint and returns its weights; five rows on two ranks are three and two."""
    # a third is not a bfloat16
    embed = torch.arange(5 * 4, dtype=torch.float32).view(5, 4) / 3
    whole = {"model.embed_tokens.weight": embed, "lm_head.weight": embed, "odd": torch.full((1, 3), 1 / 3)}
    split_weights(actor, whole, num_ranks)
    write_tokenizer(actor / "huggingface", 5)
    (actor / "huggingface" / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 5}))
    return whole


def run_folder(path: Path, steps: tuple[int, ...] = (10, 20), model: str = "nano") -> Path:
    path.mkdir(parents=True)
    config = {"actor_rollout_ref": {"model": {"path": model}}, "nano": {"seed": 3, "horizon": 2}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in steps))
    for step in steps:
        fsdp(path / "checkpoints" / f"global_step_{step}" / "actor", num_ranks=1)
    if steps:
        (path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(steps[-1]))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRM_AGENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_run_means_its_last_checkpoint_and_a_step_another(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "math-001")
    last, earlier = parse_checkpoint(str(run)), parse_checkpoint(f"{run}@10")
    assert (last.kind, last.label) == ("fsdp", "math-001 step 20")
    assert last.path == run / "checkpoints" / "global_step_20" / "actor"
    assert earlier.path == run / "checkpoints" / "global_step_10" / "actor"
    for folder in (earlier.path, earlier.path.parent):
        assert parse_checkpoint(str(folder)).path == earlier.path
        assert parse_checkpoint(str(folder)).label == "math-001 step 10"


def test_start_means_the_model_that_the_run_began_with(tmp_path: Path) -> None:
    nano = parse_checkpoint(f"start:{run_folder(tmp_path / 'a')}")
    assert (nano.kind, nano.label, nano.nano) == ("nano", "a start", NanoSpec(seed=3, horizon=2))
    model = hugging_face(tmp_path / "model")
    other = parse_checkpoint(f"start:{run_folder(tmp_path / 'b', (), str(model))}")
    assert (other.kind, other.path) == ("huggingface", model)
    smollm2 = parse_checkpoint(f"start:{run_folder(tmp_path / 'c', (), 'smollm2')}")
    assert (smollm2.kind, smollm2.label, smollm2.path) == ("smollm2", "c start", None)


def test_a_label_stands_before_the_first_equals_sign_unless_a_path_does(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "a=b")
    assert parse_checkpoint(f"mine={folder}").label == "mine"
    assert parse_checkpoint(f"mine={folder}").source == str(folder)
    assert parse_checkpoint(str(folder)).label == "a=b"
    assert parse_checkpoint("start=nano", nano=NanoSpec(seed=7)) == Checkpoint("start", "nano", "nano")
    assert parse_checkpoint("nano", nano=NanoSpec(seed=7)).nano == NanoSpec(seed=7)
    with pytest.raises(ValueError, match="a label and a source are needed"):
        parse_checkpoint("mine=")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}/absent", "does not exist; allowed: a run folder"), ("{}/file", "is a file"), ("{}/empty", "holds nothing")],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        parse_checkpoint(text.format(tmp_path))


def test_a_run_without_the_checkpoint_says_which_it_has(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint of step 15 \(steps whose checkpoints are kept: 10, 20; "):
        parse_checkpoint(f"{run_folder(tmp_path / 'a')}@15")
    with pytest.raises(ValueError, match=r"no complete checkpoint yet .*start:"):
        parse_checkpoint(str(run_folder(tmp_path / "b", ())))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("model_world_size_2_rank_1.pt", "model_world_size_2_rank_1.pt of 2 shards is missing"),
        ("fsdp_config.json", "fsdp_config.json is missing"),
        ("huggingface/config.json", "config.json is missing"),
        ("huggingface/tokenizer.json", "no tokenizer"),
    ],
)
def test_a_half_written_checkpoint_is_refused(tmp_path: Path, broken: str, message: str) -> None:
    fsdp(tmp_path / "global_step_1" / "actor")
    parse_checkpoint(str(tmp_path / "global_step_1"))
    (tmp_path / "global_step_1" / "actor" / broken).unlink()
    with pytest.raises(ValueError, match=message):
        parse_checkpoint(str(tmp_path / "global_step_1"))


@pytest.mark.parametrize("file", ["model.safetensors", "model_world_size_2_rank_0.pt"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_cut_weights_are_refused(tmp_path: Path, file: str, keep: float) -> None:
    hugging_face(tmp_path)
    if file.endswith(".pt"):
        fsdp(tmp_path)
    weights = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(weights[: int(keep * len(weights))])
    with pytest.raises(ValueError, match=f"{file}: cut or not a file of weights"):
        parse_checkpoint(str(tmp_path))


def test_an_index_that_names_an_absent_file_is_refused(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path)
    index = {"weight_map": {"embed": "model.safetensors", "head": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names 2 files, 1 of them are missing \(model-2.safetensors\)"):
        parse_checkpoint(str(folder))
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="without weights"):
        parse_checkpoint(str(folder))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path)
    write_tokenizer(folder, VOCABULARY + 1)
    with pytest.raises(ValueError, match=r"ids up to 8, the model's vocabulary is 8"):
        parse_checkpoint(str(folder))


def test_the_given_tokenizer_serves_a_folder_that_has_none(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "model")
    write_tokenizer(tmp_path / "tokens")
    assert parse_checkpoint(str(folder), tokenizer=str(tmp_path / "tokens")).tokenizer is None
    (folder / "tokenizer.json").unlink()
    assert parse_checkpoint(str(folder), tokenizer=str(tmp_path / "tokens")).tokenizer == tmp_path / "tokens"
    with pytest.raises(ValueError, match="no tokenizer"):
        parse_checkpoint(str(folder))


@pytest.mark.slow
def test_merged_weights_are_the_shards_weights_to_the_last_bit(tmp_path: Path) -> None:
    whole = fsdp(tmp_path / "actor")
    folder = with_folder(parse_checkpoint(str(tmp_path / "actor"))).folder
    merged = load_file(folder / "model.safetensors")
    # the head is the embedding itself
    assert set(merged) == {"model.embed_tokens.weight", "odd", "scale"}
    assert all(torch.equal(merged[name], whole[name]) for name in ("model.embed_tokens.weight", "odd"))
    assert torch.equal(merged["scale"], torch.tensor(0.1))
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 5
    assert parse_checkpoint(str(folder)).kind == "huggingface"


def test_processes_that_ask_at_once_merge_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsdp(tmp_path / "actor")
    merges: list[Path] = []

    def count(actor: Path, folder: Path, timeout_s: float) -> None:
        merges.append(folder)
        folder.mkdir()

    monkeypatch.setattr(merging, "_merge_atomically", count)
    threads = [threading.Thread(target=merging.merged_folder, args=(tmp_path / "actor",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(merges) == 1
    assert merges[0].parent == cache / "merged"


@pytest.mark.slow
def test_a_merge_that_fails_shows_why_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    fsdp(tmp_path / "actor")
    config = tmp_path / "actor" / "huggingface" / "config.json"
    config.write_text(json.dumps({"vocab_size": 5, "model_type": "no_such_model"}))
    with pytest.raises(ValueError, match=r"merging failed(.|\n)*no_such_model"):
        with_folder(parse_checkpoint(str(tmp_path / "actor")))
    assert [path.suffix for path in (cache / "merged").iterdir()] == [".lock"]


def test_the_fingerprint_follows_the_weights_and_nothing_else(tmp_path: Path) -> None:
    def of(path: Path) -> str:
        return fingerprint(parse_checkpoint(str(path)))

    first = of(hugging_face(tmp_path / "a"))
    assert of(hugging_face(tmp_path / "b")) == first
    assert of(hugging_face(tmp_path / "c", value=1.001)) != first
    (tmp_path / "b" / "README.md").write_text("notes")
    assert of(tmp_path / "b") == first
    (tmp_path / "b" / "chat_template.jinja").write_text("another")
    assert of(tmp_path / "b") != first
    fsdp(tmp_path / "x" / "actor")
    fsdp(tmp_path / "y" / "actor")
    assert of(tmp_path / "x") == of(tmp_path / "y")
    other = parse_checkpoint("nano", nano=NanoSpec(seed=1))
    assert fingerprint(parse_checkpoint("nano")) == NanoSpec().cache_key() != fingerprint(other)


def test_a_large_file_is_hashed_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trm_agent.evaluate.checkpoints.model_files._WHOLE_BYTES", 1000)
    monkeypatch.setattr("trm_agent.evaluate.checkpoints.model_files._BLOCK_BYTES", 100)
    file = tmp_path / "weights"

    def of(data: bytes) -> str:
        file.write_bytes(data)
        return content_hash([file])

    data = bytes(1_000_000)
    # both ends are read, and the size counts
    assert len({of(data), of(b"x" + data[1:]), of(data[1:] + b"x"), of(data[1:])}) == 4


def test_the_nano_model_is_made_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[NanoSpec] = []
    monkeypatch.setattr(prepare, "ensure_nano_model", lambda spec: made.append(spec) or tmp_path)
    checkpoint = parse_checkpoint("nano", nano=NanoSpec(seed=5))
    assert made == []
    assert with_folder(checkpoint).folder == tmp_path
    assert made == [NanoSpec(seed=5)]
