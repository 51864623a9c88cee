"""Refuse an attention that is not there, or that computes something else than the model's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_agent.extras import is_installed
from trm_agent.runs.critic import ENABLE, ESTIMATOR, has_critic
from trm_fields import refuse

FIELD = "actor_rollout_ref.model.override_config.attn_implementation"
# name of transformers -> the module that it imports
FLASH = {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "flash_attention_4": "flash_attn.cute",
}
TORCHS = "sdpa"
# of a model's config.json: the cap on the scores of its attention
CAP = "attn_logit_softcapping"


def attention(config: DictConfig) -> None:
    """Refuse an attention of flash-attn, also that of verl's critic, without a GPU and where it is not installed.

    Raises:
        ValueError: with the field.
    """
    if has_critic(config):
        _critic(config)
    asked = OmegaConf.select(config, FIELD)
    if asked not in FLASH:
        return
    if config.hardware.kind == "cpu":
        refuse(FIELD, asked, "sdpa without a GPU", "leave it out")
    if not _may_be_there(FLASH[asked]):
        remedy = "leave it out for torch's own attention over packed sequences, or install it"
        refuse(FIELD, asked, "what is installed", remedy, because=f"but there is no {FLASH[asked]} here")


def check_scores(shape: Mapping[str, Any], asked: str | None) -> None:
    """Refuse torch's attention for a model that caps its scores: it would compute them without the cap.

    Args:
        shape: the model's config.json.
        asked: the attention that is asked for; None for none.

    Raises:
        ValueError: with the field.
    """
    cap = shape.get(CAP)
    if cap and asked == TORCHS:
        because = f"which leaves out the cap of {cap} on the scores of this model's attention"
        refuse(FIELD, asked, "`eager`, or one of flash-attn", "leave it out", because=because)


def _critic(config: DictConfig) -> None:
    """Refuse a critic where verl cannot load it: it asks for flash-attn 2, whatever is set."""
    module, is_cpu = FLASH["flash_attention_2"], config.hardware.kind == "cpu"
    if not is_cpu and _may_be_there(module):
        return
    because = (
        f"but verl loads a critic with flash-attn 2, {'for GPUs only' if is_cpu else f'and there is no {module} here'}"
    )
    install = "" if is_cpu else ", or install flash-attn"
    if OmegaConf.select(config, ENABLE):
        refuse(ENABLE, True, "no critic", f"leave it out, and take an estimator without one{install}", because=because)
    estimator = OmegaConf.select(config, ESTIMATOR)
    refuse(ESTIMATOR, estimator, "estimators without a critic", f"take one, such as grpo{install}", because=because)


def _may_be_there(module: str) -> bool:
    """Return whether a module is installed; the nodes of a running cluster may have what this machine lacks."""
    return bool(os.environ.get("RAY_ADDRESS")) or _is_installed(module)


def _is_installed(module: str) -> bool:
    try:
        return is_installed(module)
    except ModuleNotFoundError:  # of the package around it
        return False
