"""Replays of one dumped batch on several ranks, in a process that imports once and forks the ranks of each replay."""

import argparse
import multiprocessing
import multiprocessing.connection
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from transformers import AutoConfig

from trm_agent.runs.compose import compose_run

from .replay_batch import batch_of, dumped_rows, with_start
from .replay_oracle import update_of
from .replay_plan import ACTOR, LOSSES, MAX_TOKEN_KL, OF_CRITERIA, PASSES, PLAN, SIZE, WITH_CRITERIA, Ranks, losses_on
from .replay_rank import Update, log_probs_of_both, replay
from .replay_source import episodes

DEADLINE_S = 120.0


def main() -> None:
    """Write `source/exact` (the dump), `expected.pt`, `both` and a folder for each replay of the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    model, folder = given.model, given.folder
    losses = {name: _composed(model, folder, *overrides) for name, overrides in LOSSES.items()}
    eos = AutoConfig.from_pretrained(model).eos_token_id
    _on_ranks(_make_dump, Ranks(1), folder / "source", losses["exact"], model, eos)
    rows = dumped_rows(folder / "source" / "exact")
    denominator = SIZE * losses["exact"].actor_rollout_ref.actor.loss_scale_factor
    _on_ranks(_expect, Ranks(1), folder, rows, model, denominator)
    batches = {name: batch_of(rows, SIZE, eos, name) for name in LOSSES}
    of_criteria = {name: _with(losses["exact"], settings) for name, settings in OF_CRITERIA.items()}
    batches |= dict.fromkeys(of_criteria, batches["exact"]) | {"permuted": with_start(batches["exact"])}
    for name, ranks in PLAN.items():
        configs = {loss: losses[loss] for loss in losses_on(ranks)}
        configs |= of_criteria if name in WITH_CRITERIA else {}
        updates = {
            loss: Update(_over(config, ranks), batches[loss], PASSES.get(loss, {})) for loss, config in configs.items()
        }
        _on_ranks(replay, ranks, folder / name, updates)
    with_reference = _composed(model, folder, f"{ACTOR}.use_kl_loss=true")
    _on_ranks(log_probs_of_both, Ranks(1), folder / "both", Update(with_reference, batches["exact"]))


def _composed(model: Path, folder: Path, *overrides: str) -> DictConfig:
    """The configuration of a run on one rank whose rate is 0, resolved as its driver does."""
    config = compose_run(
        [
            "experiment=math_nano",
            f"run.dir={folder}",
            f"actor_rollout_ref.model.path={model}",
            f"{ACTOR}.ppo_micro_batch_size_per_gpu=3",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=3",
            "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=2",
            f"{ACTOR}.optim.lr=0",
            *overrides,
        ]
    )
    OmegaConf.resolve(config)
    return config


def _with(config: DictConfig, settings: Mapping[str, Any]) -> DictConfig:
    """A configuration with other settings of the trust region; a composition takes longer than an update."""
    config = config.copy()
    trm = config.actor_rollout_ref.actor.policy_loss.trm
    with open_dict(trm):
        trm.update(settings)
    return config


def _over(config: DictConfig, ranks: Ranks) -> DictConfig:
    config = config.copy()
    for name in ("ulysses_sequence_parallel_size", "fsdp_config.ulysses_sequence_parallel_size"):
        OmegaConf.update(config, f"{ACTOR}.{name}", ranks.in_sequence)
    return config


def _make_dump(rank: int, ranks: Ranks, folder: Path, config: DictConfig, model: Path, eos: int) -> None:
    replay(rank, ranks, folder, {"exact": Update(config, batch_of(episodes(model), SIZE, eos))})


def _expect(rank: int, ranks: Ranks, folder: Path, rows: Sequence[Any], model: Path, denominator: float) -> None:
    torch.save(vars(update_of(rows, model, MAX_TOKEN_KL, denominator)), folder / "expected.pt")


def _on_ranks(work: Callable[..., None], ranks: Ranks, folder: Path, *given: Any) -> None:
    """Do the work in a fork for each rank, and wait; the first that fails ends the others."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    forks = [context.Process(target=work, args=(rank, ranks, folder, *given)) for rank in range(ranks.world)]
    for fork in forks:
        fork.start()
    deadline = time.monotonic() + DEADLINE_S
    try:
        while alive := [fork.sentinel for fork in forks if fork.is_alive()]:
            multiprocessing.connection.wait(alive, timeout=1)
            if any(fork.exitcode for fork in forks) or time.monotonic() > deadline:
                break
        ended = [fork.exitcode for fork in forks]
        if any(ended) or None in ended:
            raise SystemExit(f"{folder.name}: exit codes {ended}, None for a rank that was still at work")
    finally:
        for fork in forks:
            fork.kill()


if __name__ == "__main__":
    main()
