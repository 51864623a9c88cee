"""A trainer's additions for dynamic sampling: what the replay buffer watches, and what a step tells of it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trm_agent.runs.estimators import BEST_ALONE
from trm_agent.runs.preflight_async import is_asynchronous
from trm_agent.runs.progress import extend_phase
from trm_agent.runs.sampling_settings import MASK, PENALTY
from trm_agent.verl_plugin.driver.curriculum import Curriculum, curriculum_metrics
from trm_agent.verl_plugin.driver.dynamic_sampling import Filter, GroupWatch
from trm_agent.verl_plugin.driver.ended_tasks import take_ended
from trm_agent.verl_plugin.driver.group_signal import Group
from trm_agent.verl_plugin.rollout.overlong import OVERLONG_PARTITION
from trm_fields import refuse

logger = logging.getLogger("trm_agent")


@dataclass(frozen=True)
class LeftOut:
    """Episodes that were played and are not trained on: of replaced groups, and masked ones."""

    num_episodes: int = 0
    """Their number."""
    num_successes: int = 0
    """How many of them succeeded."""
    num_tokens: int = 0
    """Tokens that the model sampled for them."""


class SamplingMixin:
    """A mixin for a trainer of verl's V1."""

    config: Any
    global_steps: int
    train_dataset: Any
    train_dataloader: Any
    replay_buffer: Any = None
    _probabilities: Mapping[int, float] = {}
    _chosen_step = -1

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        filtering = filter_of(self.config)
        if filtering is not None or self.config.env.train.curriculum.enable:
            buffer.watch = GroupWatch(filtering)
        return buffer

    def _next_train_batch(self, num_prompts: int | None = None) -> Any:
        self._refuse_repeated_tasks(num_prompts or self.config.data.train_batch_size)
        return super()._next_train_batch(num_prompts)  # type: ignore[misc]

    def _add_prompts_to_generate(self, num_prompts: int) -> int:
        # beside the step's own batch
        extend_phase(Path(self.config.run.dir), num_prompts * self.config.actor_rollout_ref.rollout.n)
        added: int = super()._add_prompts_to_generate(num_prompts)  # type: ignore[misc]
        if filter_of(self.config) is None and not is_asynchronous(self.config):
            # the checks before Ray have counted the others' spare tasks
            self._warn_of_too_few()
        return added

    def on_sample_end(self) -> None:
        super().on_sample_end()  # type: ignore[misc]
        if (curriculum := self._curriculum()) is not None:
            # not at the step's begin, since verl's loader restores the means as it draws; and before further updates
            if self._chosen_step != self.global_steps:
                self._probabilities, self._chosen_step = curriculum.probabilities(), self.global_steps
            assert self._watch is not None, "a curriculum has one"
            # here, so that a checkpoint of this step holds it
            curriculum.observe(self._watch.drain())

    def _sampling_metrics(self, summaries: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], LeftOut]:
        """Take the metrics of a step's groups, curriculum and over-long episodes.

        Args:
            summaries: `agent_loop.summary` of every episode that was trained on.
        """
        watch = self._watch
        # those of tasks in play are wanted when their group is judged
        masked = take_ended(OVERLONG_PARTITION) if self.config.env.overlong.treatment == MASK else []
        left_out = _left_out(watch.left_out() if watch is not None else [], masked)
        metrics = overlong_metrics(self.config.env.overlong.treatment, summaries, len(masked))
        if left_out.num_episodes:
            num_successes = left_out.num_successes + sum(bool(item["success"]) for item in summaries)
            metrics["env/played_success"] = num_successes / (left_out.num_episodes + len(summaries))
        if watch is not None:
            metrics |= watch.metrics()
        if (curriculum := self._curriculum()) is not None:
            groups = watch.groups.values() if watch is not None else ()
            metrics |= curriculum_metrics(self._probabilities, curriculum.success, groups)
        return metrics, left_out

    @property
    def _watch(self) -> GroupWatch | None:
        found: GroupWatch | None = getattr(self.replay_buffer, "watch", None)
        return found

    def _curriculum(self) -> Curriculum | None:
        found: Curriculum | None = getattr(self.train_dataset, "curriculum", None)
        return found

    def _num_drawn(self) -> int:
        """Return how many tasks have been drawn, by this run and by those that it goes on from."""
        # not batches, which another run may have had of another size
        number: int = self.train_dataloader.state_dict()["_sampler_iter_state"]["samples_yielded"]
        return number

    def _warn_of_too_few(self) -> None:
        """Say that the tasks which are left will not do, as soon as it is known."""
        steps = int(self.config.trainer.total_training_steps) - self.global_steps
        needed = self._num_drawn() + steps * int(self.config.data.train_batch_size)
        if needed > len(self.train_dataset):
            logger.warning(
                "step %d: with those in place of others the run needs %d tasks, and env.train.num_tasks=%d: it will "
                "stop in its last steps; raise it with trm train --extend, which goes on after the last checkpoint",
                self.global_steps,
                needed,
                len(self.train_dataset),
            )

    def _refuse_repeated_tasks(self, number: int) -> None:
        """Refuse to draw more tasks than are left; verl would begin with the first again."""
        needed = self._num_drawn() + number
        if needed > len(self.train_dataset):
            refuse(
                "env.train.num_tasks",
                self.config.env.train.num_tasks,
                f"at least {needed}, which the run needs with those in place of others by step {self.global_steps}",
                "raise it with trm train --extend, which goes on after the last checkpoint",
            )


def _left_out(groups: Sequence[Group], masked: Sequence[Mapping[str, Any]]) -> LeftOut:
    """Count the episodes of replaced groups, and those that were masked, in these groups or in others."""
    return LeftOut(
        len(masked) + sum(len(group.successes) for group in groups),
        # a masked episode did not end by itself, and no such one succeeds
        sum(sum(group.successes) for group in groups),
        sum(int(tag["model_tokens"]) for tag in masked) + sum(group.num_tokens for group in groups),
    )


def filter_of(config: Any) -> Filter | None:
    """Return the filter that a configuration asks for; None for none."""
    asked, sampler = config.algorithm.filter_groups, config.trainer.v1.sampler.sampler_kwargs
    if not asked.enable:
        return None
    return Filter(
        metric=str(asked.metric),
        max_batches=int(asked.max_num_gen_batches),
        short_batch=str(sampler.short_batch),
        max_failed_batches=int(sampler.max_failed_batches),
        best_alone=str(config.algorithm.adv_estimator) in BEST_ALONE,
    )


def overlong_metrics(treatment: str, summaries: Sequence[Mapping[str, Any]], num_masked: int) -> dict[str, float]:
    """Return what the treatment of over-long episodes did in a step; empty where they are kept.

    Args:
        treatment: `env.overlong.treatment`.
        summaries: `agent_loop.summary` of every episode that was trained on.
        num_masked: number of episodes that were masked.
    """
    if treatment == MASK:
        return {"env/overlong/masked": float(num_masked)}
    if treatment != PENALTY or not summaries:
        return {}
    penalties = [float(item.get("overlong_penalty", 0.0)) for item in summaries]
    return {
        "env/overlong/penalised_frac": sum(penalty > 0 for penalty in penalties) / len(penalties),
        "env/overlong/penalty_mean": sum(penalties) / len(penalties),
    }
