"""One step of Adam between two checkpoints, followed by hand from the stored weights and moments."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

BETAS, EPS, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 0.01


@dataclass(frozen=True)
class Adam:
    """A checkpoint of one device: tensors in the order of the model's parameters, float64."""

    weights: list[torch.Tensor]
    first: list[torch.Tensor]
    second: list[torch.Tensor]
    num_steps: int


def stored(run: Path, step: int) -> Adam:
    """Read the checkpoint of a step."""
    actor = run / "checkpoints" / f"global_step_{step}" / "actor"
    model, optim = (_load(actor / f"{name}_world_size_1_rank_0.pt") for name in ("model", "optim"))
    states, (group,) = list(optim["state"].values()), optim["param_groups"]
    assert (tuple(group["betas"]), group["eps"], group["weight_decay"]) == (BETAS, EPS, WEIGHT_DECAY)
    (num_steps,) = {int(state["step"]) for state in states}
    moments = ([_local(state[name]) for state in states] for name in ("exp_avg", "exp_avg_sq"))
    # tied to the embedding: one parameter
    weights = [_local(tensor) for name, tensor in model.items() if name != "lm_head.weight"]
    assert len(weights) == len(states)
    return Adam(weights, *moments, num_steps)


def fresh(checkpoint: Adam) -> Adam:
    """Return the weights alone, as Adam begins with them."""
    zeros = [torch.zeros_like(tensor) for tensor in checkpoint.weights]
    return Adam(checkpoint.weights, zeros, zeros, 0)


def assert_next_step(before: Adam, after: Adam, rate: float) -> None:
    r"""Hold one checkpoint against the one a step before it.

    The gradient is not stored, but both moments hold it: $m' = \beta_1 m + (1 - \beta_1) g$ and
    $v' = \beta_2 v + (1 - \beta_2) g^2$ agree on it only if $m$ and $v$ are those that the step began with. The weights
    are then $w' = (1 - \eta \lambda) w - \eta \hat m' / (\sqrt{\hat v'} + \epsilon)$.
    """
    one, two = BETAS
    step = before.num_steps + 1
    assert after.num_steps == step
    moved = 0.0
    for index, weight in enumerate(before.weights):
        first, second = after.first[index], after.second[index]
        gradient = (first - one * before.first[index]) / (1 - one)
        expected = two * before.second[index] + (1 - two) * gradient**2
        torch.testing.assert_close(second, expected, rtol=1e-3, atol=1e-16)
        direction = first / (1 - one**step) / ((second / (1 - two**step)).sqrt() + EPS)
        expected = (1 - rate * WEIGHT_DECAY) * weight - rate * direction
        # half a unit in the last place of float32 weights of up to 4
        torch.testing.assert_close(after.weights[index], expected, rtol=0, atol=3e-7)
        moved = max(moved, (after.weights[index] - weight).abs().max().item())
    # without a gradient anywhere, nothing would be shown
    assert moved > rate / 10


def _load(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=False)


def _local(tensor: Any) -> torch.Tensor:
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).double()
