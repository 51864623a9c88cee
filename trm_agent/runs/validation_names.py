"""The names of the metrics that a validation gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# per episode; verl fills lost ones into the first
_VALUES = ("acc", "acc_success_only", "reward")
_CORE = ("mean", "best")


def validation_names(horizons: Sequence[int], samples: int, greedy_tasks: int = 0) -> list[str]:
    """Return the names of every metric that a validation can give, ours and verl's.

    Args:
        horizons: of `env.val.horizons`.
        samples: episodes of each task, `rollout.val_kwargs.n`.
        greedy_tasks: how many tasks are played greedily as well, `env.val.greedy_tasks`; horizons take turns in them.
    """
    sources = [f"h{horizon}" for horizon in dict.fromkeys(horizons)]
    sources += [f"greedy_h{horizon}" for horizon in dict.fromkeys(horizons[:greedy_tasks])]
    ours = [f"env/val_{name}/{source}" for name in ("success", "num_episodes") for source in sources]
    verls = [f"val-aux/num_turns/{name}" for name in ("min", "max", "mean")]
    for source in sources:
        for value in _VALUES:
            for name in _statistics(samples):
                is_core = value == "acc" and name.startswith(_CORE) and f"@{samples}" in name
                verls.append(f"val-{'core' if is_core else 'aux'}/{source}/{value}/{name}")
    return ours + verls


def _statistics(samples: int) -> Iterator[str]:
    """Yield verl's statistics over the episodes of a task: of subsets of 2, 4, ... and of all."""
    yield f"mean@{samples}"
    if samples < 2:
        return
    yield f"std@{samples}"
    sizes = [2**power for power in range(1, samples.bit_length()) if 2**power < samples]
    for size in (*sizes, samples):
        yield from (f"{name}@{size}/{figure}" for name in ("best", "worst") for figure in ("mean", "std"))
