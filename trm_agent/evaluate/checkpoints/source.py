"""Resolve a user's text to the subject of an evaluation: a folder of weights or the address of a server.

A text is `SOURCE` or `LABEL=SOURCE`. Everything here only reads: `parse_checkpoint` looks for every fault of a
source (an endpoint is asked for its model), and weights are merged or made in `trm_agent.evaluate.prepare`.
"""

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trm_agent.evaluate.checkpoints import model_files
from trm_agent.evaluate.checkpoints.merging import fsdp_hash
from trm_agent.evaluate.checkpoints.served import base_url, served_model
from trm_agent.models.nano import is_made, nano_folder
from trm_agent.models.nano_spec import NanoSpec
from trm_agent.models.smollm2 import SMOLLM2, is_converted, smollm2_folder
from trm_agent.runs.data_text import read_yaml
from trm_agent.runs.folder import CHECKPOINTS, CONFIG_FILE, checkpoint_folder, checkpoint_step, saved_steps

NANO = "nano"
START = "start:"
# what training has written, as ALLOWED names it
TRAINED = "a run folder (its last checkpoint), RUN@STEP, a global_step_N or actor folder"
ALLOWED = (
    "a run folder (its last checkpoint), RUN@STEP, start:RUN (what the run began with), a global_step_N or actor "
    "folder, a Hugging Face folder, nano, smollm2, or http://host:port/v1[#model]; each may be LABEL=SOURCE"
)


@dataclass(frozen=True)
class Checkpoint:
    """One model to evaluate."""

    label: str
    """Name in tables, as given, else derived from the source. Two checkpoints may derive the same one."""
    kind: str
    """`fsdp`, `huggingface`, `nano`, `smollm2` or `endpoint`."""
    source: str
    """Source as given, without the label."""
    path: Path | None = None
    """Folder (fsdp: `.../global_step_N/actor`); None for an endpoint and for a model by name."""
    url: str | None = None
    """Address of an endpoint, without a slash at the end."""
    model: str | None = None
    """Name under which an endpoint serves the model."""
    tokenizer: Path | None = None
    """Folder of the tokenizer if the source brings none: an endpoint, or a Hugging Face folder without one."""
    nano: NanoSpec | None = field(default=None, compare=False)
    """Recipe of the nano model."""
    folder: Path | None = field(default=None, compare=False)
    """Hugging Face folder to serve, once it is prepared; None before, and for an endpoint."""


def parse_checkpoint(
    text: str, nano: NanoSpec | None = None, tokenizer: str | None = None, allowed: str = ALLOWED
) -> Checkpoint:
    """Resolve a user's text, and refuse a source that cannot be evaluated.

    Args:
        text: `SOURCE` or `LABEL=SOURCE`; a label has neither "/" nor "://".
        nano: the recipe behind the source `nano`; None for the default one.
        tokenizer: folder of a tokenizer, used if the source brings none.
        allowed: sources that the command takes, for refusals; it refuses the others itself.

    Raises:
        ValueError: no such source, a folder that is not a checkpoint or half-written, a tokenizer of another model, an
            endpoint that refuses or stalls; the message holds the finding and the remedy.
    """
    label, source = _split_label(text, allowed)
    tokens = Path(tokenizer).expanduser() if tokenizer is not None else None
    if re.match(r"https?://", source):
        found = _endpoint(source, tokens)
    elif source == NANO:
        found = Checkpoint(NANO, NANO, source, nano=nano or NanoSpec())
    elif source == SMOLLM2:
        found = Checkpoint(SMOLLM2, SMOLLM2, source)
    elif source.startswith(START):
        found = _start_of(source, Path(source.removeprefix(START)).expanduser(), tokens, allowed)
    else:
        found = _folder(source, tokens, allowed)
    return replace(found, label=label or found.label)


def model_files_folder(checkpoint: Checkpoint) -> Path | None:
    """Return the folder that holds `config.json` and tokenizer now.

    Returns:
        None for an endpoint, and for a model by name that has yet to be made.
    """
    if checkpoint.kind == "endpoint":
        return None
    if checkpoint.kind == NANO:
        folder = nano_folder(checkpoint.nano or NanoSpec())
        return folder if is_made(folder) else None
    if checkpoint.kind == SMOLLM2:
        return smollm2_folder() if is_converted(smollm2_folder()) else None
    assert checkpoint.path is not None, f"{checkpoint.kind} without a folder"
    return checkpoint.path / "huggingface" if checkpoint.kind == "fsdp" else checkpoint.path


def tokenizer_folder(checkpoint: Checkpoint) -> Path | None:
    """Return the folder of the tokenizer; None for a model by name that has yet to be made."""
    return checkpoint.tokenizer or model_files_folder(checkpoint)


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return a short hash of the weights, which depends on neither their name nor their place.

    For files it covers the contents; for a model by name, its recipe; for an endpoint, whose weights cannot be seen,
    its address, the model's name and the tokenizer.
    """
    if checkpoint.kind == NANO:
        return (checkpoint.nano or NanoSpec()).cache_key()
    if checkpoint.kind == SMOLLM2:
        return smollm2_folder().name
    if checkpoint.kind == "endpoint":
        assert checkpoint.tokenizer is not None, "an endpoint without a tokenizer"
        tokens = model_files.content_hash(_tokenizer_files(checkpoint.tokenizer))
        return hashlib.sha256(f"{checkpoint.url}\0{checkpoint.model}\0{tokens}".encode()).hexdigest()[:16]
    assert checkpoint.path is not None, f"{checkpoint.kind} without a folder"
    if checkpoint.kind == "fsdp":
        return fsdp_hash(checkpoint.path)
    tokenizer = _tokenizer_files(checkpoint.tokenizer or checkpoint.path)
    weights = [checkpoint.path / "config.json", *model_files.weight_files(checkpoint.path)]
    return model_files.content_hash([*weights, *tokenizer])


def _split_label(text: str, allowed: str) -> tuple[str | None, str]:
    label, equals, source = text.partition("=")
    if not equals or "/" in label or Path(text.strip()).expanduser().is_dir():
        return None, text.strip()
    if not label.strip() or not source.strip():
        raise ValueError(f"checkpoint {text!r}: a label and a source are needed around '='; allowed: {allowed}")
    return label.strip(), source.strip()


def _endpoint(source: str, tokenizer: Path | None) -> Checkpoint:
    url, _, model = source.partition("#")
    if tokenizer is None:
        raise ValueError(
            f"checkpoint {source!r}: an endpoint takes tokens, which only a tokenizer makes; give the folder of the "
            "served model's tokenizer (--tokenizer)"
        )
    model_files.check_tokenizer(tokenizer)
    url = base_url(url)
    name = served_model(url, model or None)
    return Checkpoint(name, "endpoint", source, url=url, model=name, tokenizer=tokenizer)


def _start_of(source: str, run: Path, tokenizer: Path | None, allowed: str) -> Checkpoint:
    """Return the model that a run began with, according to its `config.yaml`."""
    if not (run / CONFIG_FILE).exists():
        why = f"holds no {CONFIG_FILE}" if run.is_dir() else "is a file" if run.exists() else "does not exist"
        raise ValueError(f"checkpoint {source!r}: {run} {why}; give a run folder after {START!r}")
    label = f"{run.resolve().name} start"
    try:
        config: dict[str, Any] = read_yaml((run / CONFIG_FILE).read_text(encoding="utf-8"))
        path = str(config["actor_rollout_ref"]["model"]["path"])
        if path == NANO:
            return Checkpoint(label, NANO, source, nano=NanoSpec(**config["nano"]))
        if path == SMOLLM2:
            return Checkpoint(label, SMOLLM2, source)
        folder = Path(path).expanduser()
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{run / CONFIG_FILE}: names no model that a run began with ({error}); allowed: {allowed}"
        ) from error
    if not folder.is_dir():
        folder = _downloaded(source, path)
    _check_model(folder, tokenizer)
    return Checkpoint(label, "huggingface", source, folder, tokenizer=tokenizer)


def _downloaded(source: str, name: str) -> Path:
    """Return the folder to which the training downloaded a model of the hub, without downloading anything."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception as error:
        raise ValueError(
            f"checkpoint {source!r}: the run began with {name!r}, which is not a folder here and not among the "
            "downloaded models; give the folder of that model"
        ) from error


def _folder(source: str, tokenizer: Path | None, allowed: str) -> Checkpoint:
    path, step = Path(source).expanduser(), None
    name, at, digits = source.rpartition("@")
    if at and digits.isdigit() and not path.exists():
        path, step = Path(name).expanduser(), int(digits)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise ValueError(f"checkpoint {source!r}: {path} {what}{where}; allowed: {allowed}")
    if step is not None or (path / CHECKPOINTS).is_dir() or (path / CONFIG_FILE).exists():
        return _of_run(source, path, step)
    if (path / "actor").is_dir():
        return _fsdp(source, path / "actor")
    if (path / model_files.FSDP_CONFIG).exists() or any(path.glob("model_world_size_*_rank_*.pt")):
        return _fsdp(source, path)
    if not (path / "config.json").exists():
        found = sorted(each.name for each in path.iterdir())
        shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise ValueError(f"checkpoint {source!r}: no checkpoint; it holds {shown or 'nothing'}; allowed: {allowed}")
    own = any((path / name).exists() for name in model_files.TOKENIZERS)
    _check_model(path, None if own else tokenizer)
    return Checkpoint(path.resolve().name, "huggingface", source, path, tokenizer=None if own else tokenizer)


def _check_model(folder: Path, tokenizer: Path | None) -> None:
    """Refuse a folder that cannot be evaluated, or whose weights are programs as well."""
    weights = model_files.check_hugging_face(folder, tokenizer)
    if pickles := [file for file in weights if file.suffix != ".safetensors"]:
        from trm_agent.runs.checkpoint_pickles import check_pickle

        for file in pickles:
            check_pickle(file)


def _of_run(source: str, run: Path, step: int | None) -> Checkpoint:
    saved = saved_steps(run)
    has = f"steps whose checkpoints are kept: {', '.join(map(str, saved)) or 'none'}"
    if step is None:
        step = checkpoint_step(run)
        if step == 0:
            raise ValueError(
                f"checkpoint {source!r}: the run has no complete checkpoint yet ({has}); let it run until "
                f"trainer.save_freq, or evaluate what it began with as {START}{run}"
            )
    elif step not in saved:
        raise ValueError(
            f"checkpoint {source!r}: {run} has no checkpoint of step {step} ({has}; trainer.max_actor_ckpt_to_keep, "
            "run.keep_best and run.keep_every decide)"
        )
    return _fsdp(source, checkpoint_folder(run, step) / "actor")


def _fsdp(source: str, actor: Path) -> Checkpoint:
    model_files.check_fsdp(actor)
    step = actor.resolve().parent
    run = step.parent.parent if step.parent.name == CHECKPOINTS else step.parent
    number = re.fullmatch(r"global_step_(\d+)", step.name)
    label = f"{run.name} step {number[1]}" if number else step.name
    return Checkpoint(label, "fsdp", source, actor)


def _tokenizer_files(folder: Path) -> list[Path]:
    """Return the files that decide a text's tokens: the tokenizer, its settings and the chat template."""
    known = (*model_files.TOKENIZERS, "merges.txt", "tokenizer_config.json", "chat_template.jinja")
    return [folder / name for name in known if (folder / name).exists()]
