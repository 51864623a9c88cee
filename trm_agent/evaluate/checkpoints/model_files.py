"""Check that the files of a model on disk are complete and whole, and hash their contents.

Nothing here loads a weight or a library that could: a broken folder is refused before anything heavy starts.
"""

import hashlib
import json
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trm_agent.runs.data_text import check_files

INDEXED = ("model.safetensors", "pytorch_model.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
_MAX_SHARDS = 100_000
FSDP_CONFIG = "fsdp_config.json"
_IMPLEMENTATIONS = {
    f"{prefix}{part}_implementation{suffix}"
    for prefix in ("", "_")
    for part in ("attn", "experts")
    for suffix in ("", "_internal")
}
# larger files are hashed in part: at both ends and at regular places between
_WHOLE_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 20
_NUM_BLOCKS = 64


def check_hugging_face(folder: Path, tokenizer: Path | None = None) -> list[Path]:
    """Refuse a Hugging Face folder that cannot be evaluated.

    Args:
        folder: `config.json`, the weights and the tokenizer.
        tokenizer: the tokenizer's folder, if it is another.

    Returns:
        The files of the weights.

    Raises:
        ValueError: a file is missing, truncated or does not match; with the remedy.
    """
    check_files(folder)
    config = _read_config(folder)
    weights = check_weights(folder)
    check_tokenizer(tokenizer or folder, vocab_size(config))
    return weights


def check_weights(folder: Path) -> list[Path]:
    """Return the files of the weights in a Hugging Face folder, all of them there and whole.

    Raises:
        ValueError: a file is missing or truncated; with the remedy.
    """
    weights = weight_files(folder)
    for file in weights:
        _check_whole(file)
    return weights


def check_fsdp(actor: Path) -> None:
    """Refuse an FSDP checkpoint of verl that lacks a shard, its configuration or its tokenizer.

    Raises:
        ValueError: a file is missing or truncated; with the remedy.
    """
    check_files(actor)
    for file in shard_files(actor):
        if not file.exists():
            raise ValueError(
                f"{actor}: half-written checkpoint: {file.name} of {world_size(actor)} shards is missing; "
                "evaluate an older step, or let the training write it again"
            )
        _check_whole(file)
    check_tokenizer(actor / "huggingface", vocab_size(_read_config(actor / "huggingface")))


def world_size(actor: Path) -> int:
    """Return the number of shards in `fsdp_config.json`.

    Raises:
        ValueError: the file is missing or does not hold it.
    """
    found = _read_json(actor / FSDP_CONFIG).get("world_size")
    if not isinstance(found, int) or not 1 <= found <= _MAX_SHARDS:
        raise ValueError(
            f"{actor / FSDP_CONFIG}: world_size = {str(found)[:80]}: expected a number of shards, 1 to {_MAX_SHARDS}"
        )
    return found


def shard_files(actor: Path) -> list[Path]:
    """Return the shards of the model by rank, whether they exist or not."""
    size = world_size(actor)
    return [actor / f"model_world_size_{size}_rank_{rank}.pt" for rank in range(size)]


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a Hugging Face folder.

    Raises:
        ValueError: there are none, or the index names one that is missing.
    """
    for name in INDEXED:
        index = folder / f"{name}.index.json"
        if index.exists():
            names = _named_files(index)
            missing = [each for each in names if not (folder / each).exists()]
            if missing or not names:
                raise ValueError(
                    f"{folder}: {index.name} names {len(names)} files, {len(missing)} of them are missing "
                    f"({', '.join(missing[:3])}); copy or download the folder again"
                )
            return [folder / each for each in names]
        if (folder / name).exists():
            return [folder / name]
    raise ValueError(
        f"{folder}: config.json without weights (neither {INDEXED[0]} nor an index of several files); "
        "copy or download the folder again"
    )


def _named_files(index: Path) -> list[str]:
    """Return the files that an index of weights names; they must lie beside it."""
    weights = _read_json(index).get("weight_map")
    names: list[Any] = list(weights.values()) if isinstance(weights, dict) else [None]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(
                f"{index}: weight_map names {str(name)[:80]!r}; expected files beside it; copy the folder again"
            )
    return sorted(set(names))


def vocab_size(config: dict[str, Any]) -> int | None:
    """Return the number of rows of the model's embedding; None if the configuration does not state it."""
    return _whole_number(config, "vocab_size")


def max_positions(folder: Path) -> int | None:
    """Return the longest context that the model was made for, tokens; None if the configuration does not state it."""
    return _whole_number(_read_json(folder / "config.json"), "max_position_embeddings")


def _whole_number(config: dict[str, Any], name: str) -> int | None:
    text_config = config.get("text_config")
    found = config.get(name, text_config.get(name) if isinstance(text_config, dict) else None)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or found < 1):
        raise ValueError(f"config.json: {name} = {str(found)[:80]!r}: expected a number of at least 1; copy it again")
    return found


def check_tokenizer(folder: Path, size: int | None = None) -> None:
    """Refuse a folder without a tokenizer, or one whose tokens the model does not have.

    Args:
        folder: the tokenizer's folder.
        size: size of the model's vocabulary; None if it is not known (an endpoint).

    Raises:
        ValueError: the tokenizer is missing or has an id of at least `size`.
    """
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise ValueError(
            f"{folder}: no tokenizer (none of {', '.join(TOKENIZERS)}); copy the files of the model's tokenizer there"
        )
    if size is None or not (folder / TOKENIZERS[0]).exists():
        return
    largest = _largest_id(folder / TOKENIZERS[0])
    if largest >= size:
        raise ValueError(
            f"{folder}: the tokenizer has ids up to {largest}, the model's vocabulary is {size} (config.json); "
            "they are of different models: give the folder the tokenizer that belongs to the weights"
        )


def _largest_id(file: Path) -> int:
    described = _read_json(file)
    try:
        vocabulary = described.get("model", {}).get("vocab", {})
        ids = range(len(vocabulary)) if isinstance(vocabulary, list) else vocabulary.values()
        return max([*ids, *(token["id"] for token in described.get("added_tokens", ()))], default=0)
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{file}: not a tokenizer that could be read; copy or download it again") from None


def content_hash(files: Iterable[Path]) -> str:
    """Return a short hash of names and contents; time stamps and folders do not count.

    Of files beyond 256 MiB the size and 64 blocks of 1 MiB are read: an update of a model changes nearly all of it.
    """
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        if size > _WHOLE_BYTES:
            starts = [(size - _BLOCK_BYTES) * block // (_NUM_BLOCKS - 1) for block in range(_NUM_BLOCKS)]
        else:
            starts = list(range(0, size, _BLOCK_BYTES))
        with file.open("rb") as stream:
            for start in starts:
                stream.seek(start)
                digest.update(stream.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]


def _check_whole(file: Path) -> None:
    """Refuse a truncated weight file: a zip without its directory, a safetensors file without its data."""
    whole = _safetensors_end(file) == file.stat().st_size if file.suffix == ".safetensors" else zipfile.is_zipfile(file)
    if not whole:
        raise ValueError(
            f"{file}: cut or not a file of weights ({file.stat().st_size} bytes); "
            "copy it again, or take a checkpoint that was written to its end"
        )


def _safetensors_end(file: Path) -> int | None:
    """Return the end of the last tensor by the file's header; None without such a header."""
    with file.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > min(file.stat().st_size, 100 << 20):
            return None
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return 8 + length + max(ends, default=0)
        except (ValueError, RecursionError, AttributeError, KeyError, IndexError, TypeError):
            return None


def _read_config(folder: Path) -> dict[str, Any]:
    """Read a model's configuration; refuse one that names code of the hub, which transformers may fetch and run."""
    config = _read_json(folder / "config.json")
    for section in (config, *(each for each in config.values() if isinstance(each, dict))):
        for field in _IMPLEMENTATIONS & section.keys():
            named = section[field].values() if isinstance(section[field], dict) else [section[field]]
            if any("/" in str(name) for name in named):
                raise ValueError(
                    f"{folder / 'config.json'}: {field} = {str(section[field])[:80]!r} names code of the hub; allowed: "
                    "a name such as sdpa; take the field out"
                )
    return config


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{file.parent}: {file.name} is missing; the folder is not a model, or is half-written"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON that can be read ({error}); copy or download the file again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file}: expected a JSON object, found a {type(found).__name__}")
    return found
