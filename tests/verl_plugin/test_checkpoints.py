"""verl's loading of a checkpoint in our processes: its own format is read, and nothing in a file is run."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from verl.utils.checkpoint.checkpoint_manager import BaseCheckpointManager
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

from trm_agent.runs import origin
from trm_agent.runs.folder import RunFolder
from trm_agent.verl_plugin.actor import checkpoints
from trm_agent.verl_plugin.driver.trainer import RunMixin

NAMES = {"model": "model", "optimizer": "optim", "extra": "extra_state"}


class Program:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._mark}",)


def manager(part: str) -> FSDPCheckpointManager:
    """A manager that loads one part of the checkpoint of a model of one weight."""
    made = FSDPCheckpointManager.__new__(FSDPCheckpointManager)
    made.model = torch.nn.Linear(1, 1)
    made.optimizer = torch.optim.AdamW(made.model.parameters())
    made.lr_scheduler = None
    made.checkpoint_config, made.checkpoint_load_contents = None, [part]
    made.rank, made.world_size = 0, 1
    return made


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FSDPCheckpointManager, "load_checkpoint", FSDPCheckpointManager.load_checkpoint)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    checkpoints.install()
    checkpoints.install()


@pytest.mark.parametrize("part", NAMES)
def test_a_crafted_part_stops_the_loading_and_runs_nothing(tmp_path: Path, part: str) -> None:
    file = tmp_path / f"{NAMES[part]}_world_size_1_rank_0.pt"
    torch.save({"rng": Program(tmp_path / "it_ran"), "lr_scheduler": None}, file)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        manager(part).load_checkpoint(str(tmp_path))
    assert not (tmp_path / "it_ran").exists()


def test_the_random_state_that_verl_saves_comes_back(tmp_path: Path) -> None:
    np.random.seed(3)
    state = {"rng": BaseCheckpointManager.get_rng_state(), "lr_scheduler": {"last_epoch": 2, "lr_lambdas": [None]}}
    torch.save(state, tmp_path / "extra_state_world_size_1_rank_0.pt")
    expected = np.random.random(3), torch.rand(3)
    manager("extra").load_checkpoint(str(tmp_path))
    assert np.array_equal(np.random.random(3), expected[0])
    assert torch.equal(torch.rand(3), expected[1])


class Trainer:
    """Loads the state of its data as verl's does."""

    loaded: Any = None

    def __init__(self, folder: Path) -> None:
        self.config = OmegaConf.create({"trainer": {"resume_mode": "resume_path", "resume_from_path": str(folder)}})

    def _load_checkpoint(self) -> None:
        self.loaded = torch.load(Path(self.config.trainer.resume_from_path) / "data.pt", weights_only=False)


class OurTrainer(RunMixin, Trainer):
    pass


def test_the_state_of_the_data_is_read_and_never_run(tmp_path: Path) -> None:
    step = tmp_path / "checkpoints" / "global_step_3"
    step.mkdir(parents=True)
    ours, command = OurTrainer(step), RunFolder(tmp_path, "resumed", 3)
    torch.save({"_num_yielded": 10}, step / "data.pt")
    origin.check_own(command)
    ours._load_checkpoint()
    assert ours.loaded == {"_num_yielded": 10}
    torch.save({"_num_yielded": Program(tmp_path / "it_ran")}, step / "data.pt")
    for resume in (lambda: origin.check_own(command), ours._load_checkpoint):
        with pytest.raises(ValueError, match=r"data.pt: holds more than tensors: reading it would call \w+.system"):
            resume()
    assert not (tmp_path / "it_ran").exists()
    # the attack itself works
    Trainer(step)._load_checkpoint()
    assert (tmp_path / "it_ran").exists()
