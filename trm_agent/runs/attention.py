"""Refuse flash-attn where it is not there: without it a GPU takes torch's own attention, over packed sequences."""

from __future__ import annotations

import os

from omegaconf import DictConfig, OmegaConf

from trm_agent.extras import is_installed
from trm_fields import refuse

FIELD = "actor_rollout_ref.model.override_config.attn_implementation"
# name of transformers -> the module that it imports
FLASH = {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "flash_attention_4": "flash_attn.cute",
}


def attention(config: DictConfig) -> None:
    """Refuse an attention of flash-attn without a GPU, and one that is not installed.

    Raises:
        ValueError: with the field.
    """
    asked = OmegaConf.select(config, FIELD)
    if asked not in FLASH:
        return
    if config.hardware.kind == "cpu":
        refuse(FIELD, asked, "sdpa without a GPU", "leave it out")
    # the nodes of a running cluster may have what this machine lacks
    if not os.environ.get("RAY_ADDRESS") and not _is_installed(FLASH[asked]):
        remedy = "leave it out for torch's own attention over packed sequences, or install it"
        refuse(FIELD, asked, "what is installed", remedy, because=f"but there is no {FLASH[asked]} here")


def _is_installed(module: str) -> bool:
    try:
        return is_installed(module)
    except ModuleNotFoundError:  # of the package around it
        return False
