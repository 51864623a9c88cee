"""Settings of a warm start of a pretrained model, each of which is a flag of `trm warmstart`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trm_fields import ABOVE_0, COUNT, LEAST_0, SEEDS, Number, OneOf, Several, setting, settings_of

AUTO = "auto"
DTYPES = (AUTO, "bfloat16", "float32")
# of the imitated tasks, where the user names none: what is learnt on these holds at several times their length
EASY_HORIZONS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class WarmStartSpec:
    """How a pretrained model imitates.

    Raises:
        ValueError: a value is not allowed.
    """

    horizon: int = setting(8, COUNT, "Horizon at which success is played to end the imitation.")
    target_success: float = setting(
        0.35,
        Number("of 0 or more and below 1", lambda value: 0 <= value < 1),
        "Success at that horizon to stop at, played at temperature 1; 0: imitate for all steps.",
    )
    imitate: tuple[int, ...] = setting(
        (),
        Several(COUNT, least=0),
        "Horizons of the imitated tasks, drawn evenly; without it 1 2 3 4 6 8, up to the horizon.",
    )
    max_steps: int = setting(200, COUNT, "Largest number of optimizer steps.")
    max_seconds: float | None = setting(
        None,
        replace(ABOVE_0, optional=True),
        "Seconds after which no further step is taken and no further place tried; without it there is no limit.",
    )
    learning_rate: float = setting(2e-4, ABOVE_0, "Of AdamW, constant after 20 steps.")
    batch_tokens: int = setting(1500, COUNT, "Tokens of a step, about.")
    measure_every: int = setting(2, COUNT, "Steps from one measurement to the next.")
    tasks: int = setting(32, COUNT, "Held-out tasks of a measurement.")
    final_tasks: int = setting(64, COUNT, "Held-out tasks of the last one, on which no decision rests.")
    lora_rank: int = setting(
        0, LEAST_0, "Rank of LoRA adapters, which are merged at the end; 0: all weights are trained."
    )
    dtype: str = setting(
        AUTO,
        OneOf(DTYPES),
        "Number format of the weights that compute; auto: bfloat16 where the machine multiplies it faster by far, "
        "else float32.",
    )
    seed: int = setting(0, SEEDS, "Seed of the tasks and of what is sampled.")

    def __post_init__(self) -> None:
        for item in settings_of(type(self)):
            item.check(flag_of(item.name), getattr(self, item.name))
        easy = tuple(each for each in EASY_HORIZONS if each <= self.horizon)
        object.__setattr__(self, "imitate", tuple(self.imitate) or easy)


def flag_of(name: str) -> str:
    """Return the flag of a setting: `--max-steps` of `max_steps`."""
    return f"--{name.replace('_', '-')}"
