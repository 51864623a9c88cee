"""Additions to a trainer of verl's V1 for our runs: metrics of episodes, a log, a watchdog."""

import json
import math
import time
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import transfer_queue as tq
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.debug import marked_timer

from trm_agent.runs.checkpoint_pickles import check_checkpoint, weights_only
from trm_agent.runs.folder import METRICS_FILE
from trm_agent.runs.preflight_async import SYNC
from trm_agent.runs.raised import write_raised
from trm_agent.runs.rollout_pool import SEPARATE
from trm_agent.runs.validations import record_validation
from trm_agent.tasks import TRAIN, VALIDATION
from trm_agent.verl_plugin.driver import actor_update
from trm_agent.verl_plugin.driver.advantages import groups_without_baseline, with_group_advantages
from trm_agent.verl_plugin.driver.async_buffer import EVICTED
from trm_agent.verl_plugin.driver.asynchronous import AsynchronousMixin
from trm_agent.verl_plugin.driver.ended_tasks import take_ended
from trm_agent.verl_plugin.driver.episode_metrics import failure_metrics, training_metrics, validation_metrics
from trm_agent.verl_plugin.driver.hung import StartMixin, SynchronisationMixin
from trm_agent.verl_plugin.driver.infrastructure_share import InfrastructureShare
from trm_agent.verl_plugin.driver.phases import PhasesMixin
from trm_agent.verl_plugin.driver.replay_buffer import NothingPlayed
from trm_agent.verl_plugin.driver.sampling_mixin import SamplingMixin
from trm_agent.verl_plugin.driver.saving import SavingMixin
from trm_agent.verl_plugin.driver.separate import SeparateMixin
from trm_agent.verl_plugin.driver.shares import SharesMixin
from trm_agent.verl_plugin.driver.waiting import WaitingMixin
from trm_agent.verl_plugin.rollout.failed import FAILURES, check_drawn


class MetricsFile:
    """A backend of verl's `Tracking` that appends one JSON object per step. NaN and inf become null."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def log(self, data: dict[str, Any], step: int) -> None:
        row: dict[str, float | None] = {"step": step, "time": time.time()}
        for key, value in data.items():
            number = float(value)
            row[key] = number if math.isfinite(number) else None
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def finish(self) -> None:
        self._file.close()


class RunMixin(SharesMixin, SamplingMixin):
    """A mixin for the trainer that `trainer.v1.trainer_mode` names."""

    config: Any
    global_steps: int
    parameter_sync_step: int
    timing_raw: dict
    _share: InfrastructureShare | None = None
    zero_advantages: Set[str] = frozenset()
    """Keys of the step's rows whose advantages are all 0."""
    await_queue: Callable[[], None]
    """Return when the data queue is ready; raises what went wrong with it."""

    @property
    def logger(self) -> Any:
        return self._tracking

    @logger.setter
    def logger(self, tracking: Any) -> None:
        # verl builds its Tracking inside fit(): join it there
        tracking.logger["run_folder"] = MetricsFile(Path(self.config.run.dir) / METRICS_FILE)
        self._tracking = tracking

    def _load_checkpoint(self) -> None:
        if self.config.trainer.resume_mode == "resume_path":
            check_checkpoint(Path(self.config.trainer.resume_from_path))
        with weights_only():
            super()._load_checkpoint()  # type: ignore[misc]

    def on_init_end(self) -> None:
        self.await_queue()
        super().on_init_end()  # type: ignore[misc]

    def on_step_begin(self) -> None:
        # not at the place of counting, so that the metrics of the last step are written first
        self._infrastructure().check()
        super().on_step_begin()  # type: ignore[misc]

    def prepare_step(self) -> dict:
        # the tasks' way to the agent loops, which begin with the first of them: verl times only the wait for the last
        with marked_timer("start", self.timing_raw):
            return super().prepare_step()  # type: ignore[misc]

    def _compute_advantage(self, batch: Any, metrics: dict) -> Any:
        num_tasks = self._num_tasks()
        metrics.update(groups_without_baseline(batch.keys, batch.tags, num_tasks, self.config.algorithm.adv_estimator))
        with with_group_advantages(batch.tags, metrics, num_tasks) as self.zero_advantages:
            return super()._compute_advantage(batch, metrics)  # type: ignore[misc]

    def _compute_metrics(self, batch: Any, metrics: dict, timing_raw: dict, global_steps: int, epoch: int) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)  # type: ignore[misc]
        keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        summaries = [fields["episode"] for fields in list(data["extra_fields"])]
        raised = [str(item["scorer_error"]) for item in summaries if item.get("scorer_error") is not None]
        write_raised(Path(self.config.run.dir), global_steps, raised)
        failures = take_ended(FAILURES.format(stream=TRAIN))
        # the queue may have been looked at between the end of the task and the episode's tag
        check_drawn(failures)
        found, left_out = self._sampling_metrics(summaries)
        metrics.update(training_metrics(summaries, failures, timing_raw["step"], left_out.num_tokens))
        metrics.update(found)
        metrics.update(self._idle_metrics(timing_raw))
        # the tasks of all these and of the failures are the same: those that have left the queue since the last step
        num_played = len(summaries) + left_out.num_episodes + int(metrics.get(EVICTED, 0))
        metrics["env/infrastructure_share"] = self._infrastructure().observe(global_steps, num_played, failures)

    def _num_tasks(self) -> int:
        """Return how many tasks an update is meant to have; a filter says how many it found."""
        num_tasks = self.config.data.train_batch_size // self.parameter_sync_step
        watch = self._watch
        return num_tasks if watch is None or watch.filter is None else min(num_tasks, watch.num_taken)

    def _infrastructure(self) -> InfrastructureShare:
        if self._share is None:
            run = self.config.run
            self._share = InfrastructureShare(
                run.warn_infrastructure_share, run.max_infrastructure_share, run.max_infrastructure_steps
            )
        return self._share

    def _validate(self) -> dict[str, float]:
        try:
            return super()._validate()  # type: ignore[misc]
        except NothingPlayed:
            return _validation_failures()

    def _val_metrics_update(
        self, data_sources: list, sample_uids: list, reward_extra_infos_dict: dict, sample_turns: list, **kwargs: Any
    ) -> dict:
        # texts, of which verl makes no metric
        told = [reward_extra_infos_dict.pop(name, [None] * len(data_sources)) for name in ("task", "ending")]
        record_validation(Path(self.config.run.dir), self.global_steps, data_sources, *told)
        metrics = super()._val_metrics_update(  # type: ignore[misc]
            data_sources, sample_uids, reward_extra_infos_dict, sample_turns, **kwargs
        )
        metrics.update(validation_metrics(data_sources, reward_extra_infos_dict["acc"]))
        return metrics | _validation_failures()


def _validation_failures() -> dict[str, float]:
    """Return the counts of the failures that the agent loops have reported since the last call, and clear these."""
    partition = FAILURES.format(stream=VALIDATION)
    rows = (tq.kv_list(partition) or {}).get(partition, {})
    if rows:
        tq.kv_clear(keys=list(rows), partition_id=partition)
    counts = failure_metrics(list(rows.values()))
    return {key.replace("env/", "env/val_", 1): value for key, value in counts.items()}


def trainer_class(mode: str) -> type:
    """Return verl's trainer of a mode, with our mixins in front."""
    actor_update.install()
    base = get_trainer_cls(mode)
    ours = (RunMixin, StartMixin, SavingMixin, SynchronisationMixin, WaitingMixin, PhasesMixin)
    asynchronous = {SYNC: (), SEPARATE: (SeparateMixin,)}.get(mode, (AsynchronousMixin,))
    return type(f"Run{base.__name__}", (*ours, *asynchronous, base), {})
