"""The trainer's side of the loss `trm`, in any trainer of verl's V1: thresholds and dumps go in, metrics come out.

verl puts `actor/` before every metric of an update, and has no hook for us: its method is wrapped, in the one process
that holds the trainer.
"""

import functools
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trm_agent.runs.folder import read_metrics
from trm_agent.trust_region.adaptive import AdaptiveThreshold
from trm_agent.trust_region.guarantee import told_guarantee, told_selection
from trm_agent.trust_region.paired_run import acceptance_of_step, check_paired_run, without_lone_update
from trm_agent.trust_region.settings import DumpConfig, TrmConfig
from trm_agent.trust_region.surroundings import LOSS_MODE, section
from trm_agent.verl_plugin.actor.ratios import Ratios
from trm_agent.verl_plugin.actor.update import (
    ADAPTIVE_KEY,
    DUMP_KEY,
    LONGEST_KEY,
    PAIRED_KEY,
    SEED_KEY,
    STEP_KEY,
    TASKS_KEY,
    final_metrics,
    other_terms,
    ratios_in,
)
from trm_agent.verl_plugin.cpu.patches import VERL_VERSION, require_version
from trm_agent.verl_plugin.driver.dump_tasks import chosen_tasks, tasks_in
from trm_agent.verl_plugin.driver.start_of_step import warn_if_nothing_is_shuffled, with_cost
from trm_agent.verl_plugin.driver.step_warnings import warn_if_all_rejected, warn_if_sets_are_cut

logger = logging.getLogger("trm_agent")

TRAINER = "verl.trainer.ppo.v1.trainer_base"
ROLLOUTS = "rollouts"
# fields of a row that only the driver reads; lists of Python objects, which cost the actor more than their size
DRIVERS_FIELDS = frozenset(
    {
        "agent_name",
        "data_source",
        "env_task",
        "extra_fields",
        "metrics",
        "num_turns",
        "raw_prompt",
        "reward_model",
        "session_id",
        "uid",
    }
)
_MARK = "_trm_agent_update"
_THRESHOLD = "_trm_agent_threshold"
_RATIOS = "_trm_agent_ratios"


def install() -> None:
    """Wrap the actor's update of verl's trainer, where this process has imported it. Idempotent.

    Raises:
        RuntimeError: verl has a version that this was not written for.
    """
    module = sys.modules.get(TRAINER)
    trainer = getattr(module, "PPOTrainer", None)
    if trainer is not None and not getattr(trainer._update_actor, _MARK, False):
        require_version("actor_update", "verl", VERL_VERSION)
        trainer._update_actor = with_trust_region(trainer._update_actor)
        trainer._compute_old_log_prob = with_cost(trainer._compute_old_log_prob)


def with_trust_region(update_actor: Callable[..., Any]) -> Callable[..., Any]:
    """Return verl's update of the actor with the driver's inputs to the loss `trm`; other losses are unchanged."""

    @functools.wraps(update_actor)
    def updating(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        loss = self.config.actor_rollout_ref.actor.policy_loss
        if loss.loss_mode != LOSS_MODE:
            return update_actor(self, batch, metrics)
        threshold = _threshold_of(self, loss)
        told = instructions(self.config, self.global_steps, threshold.thresholds)
        if DUMP_KEY in told:
            most = most_of_update(json.loads(told[DUMP_KEY])["max_sequences"], getattr(self, "parameter_sync_step", 1))
            told |= _dumped_tasks(self.config, self.global_steps, most, batch)
        num_updates = functools.partial(_num_updates, self, batch)
        told |= for_decisions(threshold.trm, self.global_steps, _seed(self.config), num_updates)
        batch.extra_info.update(told)
        _hand_over(self, batch)
        in_use = {f"trm/{name}": value for name, value in threshold.thresholds.items()}
        batch = update_actor(self, batch, metrics)
        setattr(self, _RATIOS, ratios_in(metrics))
        finalized = final_metrics(metrics) | in_use
        if _num_batches(self) == 1:
            finalized = without_lone_update(finalized)
        metrics.clear()
        metrics.update(finalized)
        warn_if_all_rejected(metrics, other_terms(self.config.actor_rollout_ref.actor))
        warn_if_sets_are_cut(metrics, self.config.actor_rollout_ref.rollout.top_k, threshold.trm.undecided)
        warn_if_nothing_is_shuffled(self, metrics, threshold.trm)
        threshold.observe(metrics)
        return batch

    setattr(updating, _MARK, True)
    return updating


def take_ratios(trainer: Any) -> Ratios:
    """Return the sums of the trainer's last update, and forget them; none where it made no update with our loss."""
    found: Ratios = trainer.__dict__.pop(_RATIOS, Ratios())
    return found


def _hand_over(trainer: Any, batch: Any) -> None:
    """Put rows without a gradient first, and leave with the queue what the actor does not read."""
    actor = trainer.config.actor_rollout_ref.actor
    zero: Set[str] = getattr(trainer, "zero_advantages", frozenset())
    if zero and trainer.config.trainer.nnodes * trainer.config.trainer.n_gpus_per_node == 1:
        rows = actor.ppo_mini_batch_size * trainer.config.actor_rollout_ref.rollout.n
        batch.reorder(zero_first([key in zero for key in batch.keys], rows))
    if getattr(batch, "fields", None):
        batch.fields = [name for name in batch.fields if name not in DRIVERS_FIELDS]


def zero_first(is_zero: Sequence[bool], rows_per_update: int) -> list[int]:
    """Return the order of a batch's rows in which those with gradient 0 come first in their update.

    Args:
        is_zero: of each row.
        rows_per_update: rows of a mini-batch.
    """
    return sorted(range(len(is_zero)), key=lambda row: (row // rows_per_update, not is_zero[row]))


def instructions(config: Any, step: int, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Return the engine's instructions with a step's batch.

    Args:
        config: the composed configuration.
        step: of the run.
        thresholds: adaptive ones of this step; empty where none adapts.

    Returns:
        Key of the batch -> value.
    """
    told: dict[str, Any] = {STEP_KEY: step, LONGEST_KEY: int(config.data.max_response_length)}
    if thresholds:
        told[ADAPTIVE_KEY] = json.dumps(dict(thresholds))
    dump = DumpConfig.from_mapping(section(config.actor_rollout_ref.actor.policy_loss, "dump"))
    # the first one too: the report compares how episodes ended then with how they end later
    if dump.every and (step == 1 or step % dump.every == 0):
        directory = dump.directory or Path(config.trainer.default_local_dir).absolute() / ROLLOUTS
        told[DUMP_KEY] = json.dumps(asdict(dump) | {"directory": str(directory)})
    return told


def for_decisions(trm: TrmConfig, step: int, seed: int, num_updates: Callable[[], int]) -> dict[str, Any]:
    """Return the engine's instructions of a criterion that decides on a whole update; empty for the others.

    Args:
        trm: the settings.
        step: of the run.
        seed: of the run.
        num_updates: returns the number of updates of the step.

    Returns:
        Key of the batch -> value: the seed, and where a run is paired its acceptance in each update of this step.

    Raises:
        ValueError: there is no paired run, or it has no such step, or another number of updates in it.
    """
    if not trm.decides_on_whole_batch:
        return {}
    told: dict[str, Any] = {SEED_KEY: seed}
    if trm.needs_paired_run:
        check_paired_run(trm.yoked_run)
        rows = read_metrics(Path(trm.yoked_run))
        told[PAIRED_KEY] = json.dumps(acceptance_of_step(rows, step, num_updates(), trm.yoked_run))
    return told


def _num_batches(trainer: Any) -> int:
    """Return how many batches a step of a trainer of verl's has."""
    return int(getattr(trainer, "parameter_sync_step", 1))


def _num_updates(trainer: Any, batch: Any) -> int:
    """Return how many updates a step has, from one of its batches, as verl's worker divides that."""
    actor = trainer.config.actor_rollout_ref.actor
    rows = actor.ppo_mini_batch_size * trainer.config.actor_rollout_ref.rollout.n
    return len(batch.keys) // rows * actor.ppo_epochs * _num_batches(trainer)


def _seed(config: Any) -> int:
    """Return the seed of a run of ours; of verl's own trainer, which has none for all of it, 0."""
    return int(config.get("seed") or 0)


def most_of_update(most: int | None, num_updates: int) -> int | None:
    """Return how many sequences an update may dump, of those of its step; None for all.

    Args:
        most: `max_sequences`, of a step.
        num_updates: updates of a step that have batches of their own.
    """
    return None if most is None else max(1, most // num_updates)


def _dumped_tasks(config: Any, step: int, most: int | None, batch: Any) -> dict[str, str]:
    if most is None:
        return {}
    chosen = chosen_tasks(tasks_in(batch), most, _seed(config), step)
    return {} if chosen is None else {TASKS_KEY: json.dumps(chosen)}


def _threshold_of(trainer: Any, loss: Any) -> AdaptiveThreshold:
    """Return the trainer's adaptive threshold, which a resumed run of ours restores from its metrics."""
    threshold: AdaptiveThreshold | None = getattr(trainer, _THRESHOLD, None)
    if threshold is None:
        run = trainer.config.get("run")
        rows: Sequence[Mapping[str, Any]] = read_metrics(Path(run.dir)) if run else ()
        trm = TrmConfig.from_mapping(section(loss, "trm"))
        threshold = AdaptiveThreshold(trm, rows)
        setattr(trainer, _THRESHOLD, threshold)
        # the command has told a run of ours
        for told in () if run else filter(None, (told_guarantee(trainer.config), told_selection(trainer.config))):
            print(f"trm: {told}", flush=True)
    return threshold
