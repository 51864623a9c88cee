"""Settings of the episodes that `trm numerics` plays, each of which is a flag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trm_fields import COUNT, SEEDS, Number, setting, settings_of

# number formats of engine and trainer, by vLLM's names
FLOAT32 = "float32"
FORMATS = (FLOAT32, "bfloat16")
# who recomputes what the engine sampled
TRAINER, SECOND_ENGINE = "trainer", "second_engine"
# without --tokens, at most: what two cores play in minutes
MOST_TOKENS = 8192
FEWEST_TOKENS = 256


@dataclass(frozen=True)
class Formats:
    """The number formats that are compared: each engine with each trainer and each second engine."""

    engines: Sequence[str]
    """Of the engine that plays."""
    trainers: Sequence[str]
    """Of the trainer's layers."""
    second_engines: Sequence[str] = ()
    """Of the engine that reads what the first one played."""


@dataclass(frozen=True)
class NumericsSpec:
    """How episodes are played.

    Raises:
        ValueError: a value is not allowed.
    """

    episodes: int = setting(4, COUNT, "Episodes, all of them at once.")
    tokens: int | None = setting(
        None,
        Number(f"of {FEWEST_TOKENS} or more", lambda value: value >= FEWEST_TOKENS, kind=int, optional=True),
        f"Tokens of an episode; without it the run's, else the model's context, {MOST_TOKENS} at most.",
    )
    turn_tokens: int = setting(64, COUNT, "Most sampled tokens of a turn.")
    horizon: int = setting(32, COUNT, "Horizon of the tasks whose answers the model gets; a further task follows each.")
    seed: int = setting(0, replace(SEEDS), "Seed of the tasks and of what is sampled.")

    def __post_init__(self) -> None:
        for item in settings_of(type(self)):
            item.check(flag_of(item.name), getattr(self, item.name))


def flag_of(name: str) -> str:
    """Return the flag of a setting: `--turn-tokens` of `turn_tokens`."""
    return f"--{name.replace('_', '-')}"
