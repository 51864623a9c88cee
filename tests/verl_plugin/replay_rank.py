"""What one rank of a replay does: the update of verl's actor worker as a run builds it, without Ray and an engine."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import rename_dict
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.losses import ppo_loss

from trm_agent.verl_plugin.actor import dumping
from trm_agent.verl_plugin.actor.update import DUMP_KEY, STEP_KEY, final_metrics

from .replay_batch import share_of
from .replay_plan import Ranks


@dataclass(frozen=True)
class Update:
    """One update of a batch by a loss."""

    config: DictConfig
    """The run's, resolved: model, optimizer, ranks and loss."""
    batch: TensorDict
    """The whole batch."""
    passes: Mapping[str, Any] = field(default_factory=dict)
    """How verl's engine cuts it into micro-batches, where not as configured."""


def join(rank: int, ranks: Ranks, folder: Path) -> None:
    """Set what Ray would tell the worker of its place."""
    place = {"RANK": rank, "WORLD_SIZE": ranks.world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks.world}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "DIST_INIT_METHOD": f"file://{folder / 'store'}"}
    torch.set_num_threads(1)


def replay(rank: int, ranks: Ranks, folder: Path, updates: Mapping[str, Update]) -> None:
    """Update by each loss in turn, at a rate of 0, and leave what came out in the folder."""
    join(rank, ranks, folder)
    worker = _worker(next(iter(updates.values())).config)
    gradients = _watch_gradients(worker)
    for name, update in updates.items():
        actor = omega_conf_to_dataclass(update.config.actor_rollout_ref.actor)
        worker.set_loss_fn(partial(ppo_loss, config=actor))
        written = _watch_dumps()
        output = worker.update_actor(_instructed(update, share_of(update.batch, *_place(rank, ranks)), folder / name))
        found = {"gradient": gradients.pop(), "written": written, "metrics": None}
        if output is not None:
            found["metrics"] = final_metrics(reduce_metrics(rename_dict(tu.get(output, "metrics"), "actor/")))
        torch.save(found, folder / f"{name}.rank_{rank}.pt")


def log_probs_of_both(rank: int, ranks: Ranks, folder: Path, update: Update) -> None:
    """Leave the log-probs of the policy and of its reference, the same model, in the folder."""
    join(rank, ranks, folder)
    found = {}
    for role in ("actor", "ref"):
        worker = _worker(update.config, role)
        data = share_of(update.batch, *_place(rank, ranks))
        tu.assign_non_tensor(data, temperature=1.0, calculate_entropy=False, compute_loss=False)
        output = worker.compute_log_prob(data) if role == "actor" else worker.compute_ref_log_prob(data)
        found[role] = output["log_probs"].values()
    torch.save(found, folder / f"both.rank_{rank}.pt")


def _place(rank: int, ranks: Ranks) -> tuple[int, int]:
    return rank // ranks.in_sequence, ranks.of_data


def _worker(config: DictConfig, role: str = "actor") -> ActorRolloutRefWorker:
    worker = ActorRolloutRefWorker(config=config.actor_rollout_ref.copy(), role=role)
    worker.init_model()
    return worker


def _instructed(update: Update, data: TensorDict, dumps: Path) -> TensorDict:
    """Add what verl's `_update_actor` and the driver's part of our loss tell the ranks."""
    actor, size = update.config.actor_rollout_ref.actor, len(update.batch)
    dump = json.dumps({"every": 1, "directory": str(dumps), "distributions": dumps.name == "exact"})
    tu.assign_non_tensor(
        data,
        calculate_entropy=actor.entropy_coeff != 0,
        global_batch_size=size,
        mini_batch_size=size,
        epochs=actor.ppo_epochs,
        seed=actor.data_loader_seed,
        dataloader_kwargs={"shuffle": False},
        temperature=update.config.actor_rollout_ref.rollout.temperature,
        **{STEP_KEY: 1, DUMP_KEY: dump, **update.passes},
    )
    return data


def _watch_gradients(worker: Any) -> list[torch.Tensor]:
    """Return a list that gets the whole gradient before each step of the optimizer, flat, float64."""
    engine, found = worker.actor.engine, []
    step = engine.optimizer_step

    def stepping() -> float:
        gradients = [parameter.grad.full_tensor() for parameter in engine.module.parameters()]
        found.append(torch.cat([gradient.flatten() for gradient in gradients]).double())
        return step()

    engine.optimizer_step = stepping
    return found


def _watch_dumps() -> list[str]:
    """Return a list that gets the name of each file that this rank writes."""
    names: list[str] = []
    write = dumping.write_dump

    def writing(config: Any, rows: Sequence[Any], settings: Any, name: str) -> Path:
        names.append(name)
        return original(config, rows, settings, name)

    original = getattr(write, "original", write)
    writing.original = original  # type: ignore[attr-defined]
    dumping.write_dump = writing
    return names
