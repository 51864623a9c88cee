"""Checkpoints as data: what torch and verl write is read, and nothing that a file names is run."""

import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trm_agent.runs.checkpoint_pickles import check_checkpoint, check_pickle, load_pickle, weights_only
from trm_agent.runs.numpy_state import PlainType


class Program:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._command = f"touch {mark}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


class Opener(Program):
    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._command.removeprefix("touch "), "w")


class ByBuild(Program):
    """Calls nothing but sets the state of an object whose class is no tensor's."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.random.RandomState, (), {"key": self._command}


class ObjectArray(Program):
    def __reduce__(self) -> tuple[Any, ...]:
        return np.array([Program(Path(self._command.removeprefix("touch ")))], dtype=object).__reduce__()


def legacy(value: Any, file: Path) -> None:
    torch.save(value, file, _use_new_zipfile_serialization=False)


def bare(value: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(value))


def newer(value: Any, file: Path) -> None:
    """A protocol that names classes in another way."""
    torch.save(value, file, pickle_protocol=4)


def state_of_verl(value: Any = None) -> dict[str, Any]:
    """What verl keeps beside the weights, after `BaseCheckpointManager.get_rng_state`."""
    rng = {"cpu": torch.get_rng_state(), "numpy": np.random.get_state(), "random": random.getstate()}
    return {"lr_scheduler": {"last_epoch": 1, "lr_lambdas": [None]}, "rng": rng, "more": value}


FILES = (
    "data.pt",
    "actor/model_world_size_1_rank_0.pt",
    "actor/optim_world_size_1_rank_0.pt",
    "actor/extra_state_world_size_1_rank_0.pt",
)


def write_checkpoint(folder: Path) -> Path:
    (folder / "actor").mkdir(parents=True)
    for file in FILES:
        torch.save(state_of_verl(torch.ones(2)), folder / file)
    return folder


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("file", "kind", "save"),
    [
        *((file, Program, torch.save) for file in FILES),
        *((FILES[0], kind, torch.save) for kind in (Opener, ByBuild, ObjectArray)),
        *((FILES[1], Program, save) for save in (legacy, bare, newer)),
    ],
)
def test_no_file_of_a_checkpoint_runs_what_it_holds(
    tmp_path: Path, file: str, kind: type[Program], save: Callable[..., None]
) -> None:
    mark = tmp_path / "it_ran"
    folder = write_checkpoint(tmp_path / "global_step_1")
    check_checkpoint(folder)
    save(state_of_verl(kind(mark)), folder / file)
    for read in (lambda: check_checkpoint(folder), lambda: load_pickle(folder / file)):
        with pytest.raises(ValueError, match=f"{file}: .*nothing of it was run"):
            read()
    with weights_only(), pytest.raises((pickle.UnpicklingError, RuntimeError, ValueError)):
        torch.load(folder / file, weights_only=False)
    assert not mark.exists()


def test_the_state_that_verl_keeps_is_read_to_the_last_bit(tmp_path: Path) -> None:
    saved = state_of_verl(torch.arange(3))
    torch.save(saved, tmp_path / "extra.pt")
    expected = (np.random.random(4), random.random(), torch.rand(4))
    with weights_only():
        found = torch.load(tmp_path / "extra.pt", weights_only=False)["rng"]
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    torch.set_rng_state(found["cpu"])
    np.random.set_state(found["numpy"])
    random.setstate(found["random"])
    drawn = (np.random.random(4), random.random(), torch.rand(4))
    assert np.array_equal(drawn[0], expected[0])
    assert drawn[1] == expected[1]
    assert torch.equal(drawn[2], expected[2])
    assert torch.equal(load_pickle(tmp_path / "extra.pt")["more"], torch.arange(3))


@pytest.mark.parametrize("kind", [">u4", "<f8", "<i2", "?", "<c8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numbers_are_read_as_numpy_reads_them(tmp_path: Path, kind: str, order: str) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=kind, order=order)
    torch.save(array, tmp_path / "array.pt")
    if kind == "<c8":  # numbers of 1 to 8 bytes, of a kind that nothing here stores
        with pytest.raises(ValueError, match="allowed: numbers"):
            load_pickle(tmp_path / "array.pt")
        return
    found = load_pickle(tmp_path / "array.pt")
    assert np.array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("name", ["O", "V8", "O8", "U4", "u3", "u4,O", 8, ("u4", "O")])
def test_a_type_that_could_hold_an_object_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="allowed: numbers"):
        PlainType(name)


def test_a_state_whose_bytes_do_not_fill_its_shape_is_refused(tmp_path: Path) -> None:
    class Short:
        def __reduce__(self) -> tuple[Any, ...]:
            rebuild, arguments, (version, _, kind, order, data) = np.arange(4).__reduce__()
            return rebuild, arguments, (version, (1 << 40,), kind, order, data)

    torch.save(Short(), tmp_path / "short.pt")
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        load_pickle(tmp_path / "short.pt")


def test_an_array_of_any_size_that_a_pickle_asks_for_is_empty(tmp_path: Path) -> None:
    class Large:
        def __reduce__(self) -> tuple[Any, ...]:
            return np.ndarray, ((1 << 45,), "O")

    torch.save(Large(), tmp_path / "large.pt")
    assert load_pickle(tmp_path / "large.pt").shape == (0,)


@pytest.mark.parametrize("part", ["data.pkl", "data/0"])
def test_a_checkpoint_that_would_grow_is_refused_before_it_does(tmp_path: Path, part: str) -> None:
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name) + (bytes(5_000_000) if name.endswith(part) else b""))
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    check_pickle(tmp_path / "plain.pt")
    for read in (check_pickle, load_pickle):
        with pytest.raises(ValueError, match=r"bomb.pt: \d+ bytes would grow to 50\d+"):
            read(tmp_path / "bomb.pt")


@pytest.mark.parametrize("number", [1, 1 << 30])
def test_bytes_of_any_length_that_a_pickle_asks_for_are_refused_before_they_are_made(
    tmp_path: Path, number: int
) -> None:
    class Large:
        def __reduce__(self) -> tuple[Any, ...]:
            return bytearray, (number,)

    folder = write_checkpoint(tmp_path / "global_step_1")
    torch.save(state_of_verl([Large() for _ in range(100)]), folder / FILES[0])
    for read in (lambda: check_checkpoint(folder), lambda: load_pickle(folder / FILES[0])):
        with pytest.raises(ValueError, match=r"reading it would call \w+.bytearray"):
            read()


def test_prompts_in_flight_are_refused_since_only_pickles_hold_them(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "global_step_1")
    (folder / "transfer_queue").mkdir()
    bare(Program(tmp_path / "it_ran"), folder / "transfer_queue" / "controller.pkl")
    with pytest.raises(ValueError, match=r"transfer_queue: prompts in flight .*remove this folder"):
        check_checkpoint(folder)


@pytest.mark.parametrize("text", [b"", b"PK", b"PK\x05\x06" + bytes(18), json.dumps({}).encode()])
def test_what_is_no_checkpoint_at_all_is_a_clear_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(text)
    with pytest.raises(ValueError, match=r"x.pt: not a file of torch.save"):
        check_pickle(tmp_path / "x.pt")
