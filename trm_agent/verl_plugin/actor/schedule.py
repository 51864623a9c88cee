"""The rate of each update: its schedule may begin anew at a step, and its warm-up starts above 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from verl.workers.config import FSDPOptimizerConfig

# settings of a group of parameters that the configuration gives, as torch's optimizers name them
_SETTINGS = ("initial_lr", "weight_decay", "betas", "eps", "momentum")


@dataclass
class ScheduledOptimizerConfig(FSDPOptimizerConfig):
    """The optimizer's settings of verl, with the step at which the schedule began anew.

    verl instantiates it from `actor_rollout_ref.actor.optim` if `_target_` there names this class.
    """

    schedule_from: int = 0


def later(rate: Callable[[int], float], start: int) -> Callable[[int], float]:
    """Return a schedule that begins at a step.

    It is a plain function: torch stores what belongs to any other kind of callable in the checkpoint.
    """

    def shifted(step: int) -> float:
        return rate(max(0, step - start))

    return shifted


def set_rates(optimizer: Any, scheduler: Any) -> None:
    """Set the rates of a scheduler's step: a checkpoint brings those of the schedule that it was made with."""
    step, pairs = scheduler.last_epoch, zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    rates = [base * rate(step) for base, rate in pairs]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def settings_of(optimizer: Any) -> list[dict[str, Any]]:
    """Return the settings of each group of an optimizer's parameters, its rate left out."""
    return [{name: group[name] for name in _SETTINGS if name in group} for group in optimizer.param_groups]


class ScheduleMixin:
    """A mixin for verl's FSDP engine."""

    optimizer_config: Any
    optimizer: Any
    lr_scheduler: Any

    def _build_lr_scheduler(self, optimizer: Any) -> Any:
        given = self.optimizer_config
        start = getattr(given, "schedule_from", 0)
        if not start:
            return self._of_first_step(optimizer)
        self.optimizer_config = replace(given, total_training_steps=given.total_training_steps - start)
        try:
            scheduler = self._of_first_step(optimizer)
        finally:
            self.optimizer_config = given
        scheduler.lr_lambdas = [later(rate, start) for rate in scheduler.lr_lambdas]
        return scheduler

    def _of_first_step(self, optimizer: Any) -> Any:
        """Return verl's scheduler, which ignores `zero_indexed_step` where the rate is constant after its warm-up."""
        scheduler, given = super()._build_lr_scheduler(optimizer), self.optimizer_config  # type: ignore[misc]
        if given.lr_scheduler_type == "constant" and not given.zero_indexed_step:
            scheduler.lr_lambdas = [later(rate, -1) for rate in scheduler.lr_lambdas]
            set_rates(optimizer, scheduler)
        return scheduler

    def lr_scheduler_step(self) -> float:
        """Advance the schedule; return the rate of the update that was made, where verl returns the next one's."""
        rate = self.lr_scheduler.get_last_lr()[0]
        super().lr_scheduler_step()  # type: ignore[misc]
        return rate

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        # a checkpoint brings the settings that it was made with; those of the configuration hold
        settings = [] if self.optimizer is None else settings_of(self.optimizer)
        base_rates = None if self.lr_scheduler is None else list(self.lr_scheduler.base_lrs)
        super().load_checkpoint(*args, **kwargs)  # type: ignore[misc]
        for group, given in zip(self.optimizer.param_groups if settings else (), settings, strict=True):
            group.update(given)
        if self.lr_scheduler is not None:
            self.lr_scheduler.base_lrs = base_rates
            set_rates(self.optimizer, self.lr_scheduler)
