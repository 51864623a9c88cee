"""A draw of training horizons that follows measured success."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from trm_agent.tasks import STREAMS
from trm_agent.verl_plugin.driver.group_signal import Group

# a stream of random numbers beside those of the tasks
_STREAM = len(STREAMS)


class Curriculum:
    """Weights of the horizons, by an exponential mean of the success of each one's groups.

    The weight is 1 from `low` to `high`, and where nothing is measured; outside it falls in proportion to 0 at success
    0 and 1. Each horizon has `floor_share`, and the weights share out the rest.

    The horizon of a task depends on the seed, the task's index and the groups of earlier steps: the same seed draws
    the same tasks, and so does a resumed run, which has the means from its checkpoint.

    Args:
        horizons: those of the training tasks.
        seed: of the training tasks.
        settings: `CurriculumConfig`, or a section with its fields.
    """

    def __init__(self, horizons: Sequence[int], seed: int, settings: Any) -> None:
        self.horizons = list(dict.fromkeys(int(horizon) for horizon in horizons))
        self.seed, self.settings = seed, settings
        self.success: dict[int, float] = {}

    def probabilities(self) -> dict[int, float]:
        """Return the probability of each horizon."""
        weights = [self._weight(self.success.get(horizon)) for horizon in self.horizons]
        if not any(weights):
            weights = [1.0] * len(weights)
        floor, total = self.settings.floor_share, sum(weights)
        free = 1 - floor * len(weights)
        return {horizon: floor + free * weight / total for horizon, weight in zip(self.horizons, weights, strict=True)}

    def horizon_of(self, index: int) -> int:
        """Return the horizon of a task that is drawn now.

        Args:
            index: of the task in its stream.
        """
        drawn = np.random.SeedSequence([self.seed, _STREAM, index]).generate_state(1)[0] / 2**32
        bounds = accumulate(self.probabilities().values())
        found = (horizon for horizon, bound in zip(self.horizons, bounds, strict=True) if drawn < bound)
        return next(found, self.horizons[-1])

    def observe(self, groups: Iterable[Group]) -> None:
        """Take in the groups of a step, those without signal too; their order does not matter."""
        outcomes: dict[int, list[float]] = defaultdict(list)
        for group in groups:
            number = len(group.successes) + group.num_masked
            if group.horizon is not None and number:
                outcomes[group.horizon].append(sum(group.successes) / number)
        for horizon, shares in outcomes.items():
            recent = math.fsum(shares) / len(shares)
            kept = math.exp(-len(shares) / self.settings.memory_groups) if horizon in self.success else 0.0
            self.success[horizon] = kept * self.success.get(horizon, 0.0) + (1 - kept) * recent

    def state_dict(self) -> dict[str, float]:
        """Return the means, as a checkpoint keeps them."""
        return {str(horizon): success for horizon, success in self.success.items()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on with the means of a checkpoint."""
        self.success = {int(horizon): float(success) for horizon, success in state.items()}

    def _weight(self, success: float | None) -> float:
        low, high = self.settings.low, self.settings.high
        if success is None or low <= success <= high:
            return 1.0
        return success / low if success < low else (1 - success) / (1 - high)


def curriculum_metrics(
    probabilities: Mapping[int, float], success: Mapping[int, float], groups: Iterable[Group]
) -> dict[str, float]:
    """Return the metrics of a step's draw.

    Args:
        probabilities: with which the step's tasks were drawn.
        success: the means after the step.
        groups: of the step.
    """
    drawn = [group.horizon for group in groups if group.horizon is not None]
    found = {f"env/curriculum/probability/h{horizon}": value for horizon, value in probabilities.items()}
    found |= {f"env/curriculum/success/h{horizon}": value for horizon, value in success.items()}
    if drawn:
        found |= {f"env/curriculum/share/h{horizon}": drawn.count(horizon) / len(drawn) for horizon in probabilities}
    return found
