"""The option of vLLM that is in force, of those that verl's fields and vLLM's own names set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

ROLLOUT = "actor_rollout_ref.rollout"
KWARGS = f"{ROLLOUT}.engine_kwargs.vllm"


def effective_option(config: DictConfig, option: str) -> tuple[str, Any]:
    """Return the field that decides an option of the engine, and its value: options of vLLM's own win over verl's.

    Of two spellings of one option that with dashes wins: verl puts it behind its own on vLLM's command line.

    Args:
        config: the composed configuration.
        option: its name, with underscores.
    """
    from omegaconf import OmegaConf

    given = OmegaConf.select(config, KWARGS) or {}
    # a dash sorts before an underscore
    for name in sorted(given, key=str):
        if str(name).replace("-", "_") == option and given[name] is not None:
            return f"{KWARGS}.{name}", given[name]
    return f"{ROLLOUT}.{option}", config.actor_rollout_ref.rollout.get(option)
