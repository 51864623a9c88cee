"""The rate of each update: above 0 from the first one on, and in a run that was extended stretched or begun anew."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

from trm_agent.verl_plugin.actor.schedule import ScheduledOptimizerConfig, ScheduleMixin


def rates(
    schedule_from: int, total: int, at: int, rate: Callable[[int, int], Callable[[int], float]], lr: float = 1.0
) -> list[float]:
    """The rates of the steps after `at` of a run that was stored by torch under a schedule of `at` steps."""

    class Scheduled:
        """verl's engine, as far as schedules go."""

        def _build_lr_scheduler(self, optimizer: Any) -> Any:
            return torch.optim.lr_scheduler.LambdaLR(optimizer, rate(self.optimizer_config.total_training_steps, 0))

        def load_checkpoint(self, state: tuple[dict, dict]) -> None:
            self.optimizer.load_state_dict(state[0])
            self.lr_scheduler.load_state_dict(state[1])

    class Engine(ScheduleMixin, Scheduled):
        def __init__(self, total: int, start: int, lr: float = 1.0) -> None:
            self.optimizer_config = ScheduledOptimizerConfig(lr=lr, total_training_steps=total, schedule_from=start)
            self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, weight_decay=lr / 10)
            self.lr_scheduler = self._build_lr_scheduler(self.optimizer)

    first = Engine(at, 0)
    for _ in range(at):
        first.optimizer.step()
        first.lr_scheduler.step()
    second = Engine(total, schedule_from, lr)
    state = second.lr_scheduler.state_dict()
    assert state["lr_lambdas"] == [None], "a checkpoint holds no function"
    second.load_checkpoint((first.optimizer.state_dict(), first.lr_scheduler.state_dict()))
    assert second.optimizer.param_groups[0]["weight_decay"] == lr / 10
    found = []
    for _ in range(at, total):
        found.append(second.optimizer.param_groups[0]["lr"])
        second.optimizer.step()
        second.lr_scheduler.step()
    return found


def falling(total: int, _: int) -> Callable[[int], float]:
    return lambda step: max(0.0, 1 - step / total)


def test_a_stretched_schedule_is_one_over_all_steps_from_the_first_step_on() -> None:
    # 1 - step / 8 at steps 4 to 7; the rate of the checkpoint, 0 at step 4 of 4, is not used for a step
    assert rates(0, 8, 4, falling) == pytest.approx([0.5, 0.375, 0.25, 0.125])


def test_a_restarted_schedule_is_a_new_one_over_the_further_steps() -> None:
    # 1 - (step - 4) / 4 at steps 4 to 7
    assert rates(4, 8, 4, falling) == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_a_run_that_goes_on_from_another_ones_checkpoint_has_its_own_rate() -> None:
    assert rates(0, 8, 4, falling, lr=0.5) == pytest.approx([0.25, 0.1875, 0.125, 0.0625])
    assert rates(4, 8, 4, falling, lr=0.5) == pytest.approx([0.5, 0.375, 0.25, 0.125])


class VerlsSchedule:
    """verl's engine, as far as schedules go, with its own functions."""

    rank = 1
    _build_lr_scheduler = FSDPEngine._build_lr_scheduler
    lr_scheduler_step = FSDPEngine.lr_scheduler_step


class Engine(ScheduleMixin, VerlsSchedule):
    def __init__(self, total: int, **given: Any) -> None:
        self.optimizer_config = ScheduledOptimizerConfig(lr=1.0, total_training_steps=total, **given)
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        self.lr_scheduler = self._build_lr_scheduler(self.optimizer)


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        # cosine: 1 - progress of the steps after the warm-up, a step on
        ("cosine", [0.5, 1.0, 0.75, 0.25, 0.0]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_first_update_of_a_warm_up_has_a_rate_and_each_step_tells_its_own(kind: str, rates: list[float]) -> None:
    engine = Engine(5, lr_scheduler_type=kind, lr_warmup_steps=2, zero_indexed_step=False)
    used, told = [], []
    for _ in range(5):
        used.append(engine.optimizer.param_groups[0]["lr"])
        engine.optimizer.step()
        told.append(engine.lr_scheduler_step())
    assert used == pytest.approx(rates)
    assert told == used


def test_verls_own_count_of_steps_stays() -> None:
    engine = Engine(5, lr_scheduler_type="constant", lr_warmup_steps=2, zero_indexed_step=True)
    assert engine.optimizer.param_groups[0]["lr"] == 0.0


def test_a_restarted_constant_rate_is_warmed_up_from_above_zero() -> None:
    engine = Engine(9, lr_scheduler_type="constant", lr_warmup_steps=2, zero_indexed_step=False, schedule_from=4)
    for _ in range(4):
        engine.optimizer.step()
        engine.lr_scheduler_step()
    rates = []
    for _ in range(3):
        rates.append(engine.optimizer.param_groups[0]["lr"])
        engine.optimizer.step()
        engine.lr_scheduler_step()
    assert rates == [0.5, 1.0, 1.0]
