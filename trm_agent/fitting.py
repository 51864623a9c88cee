"""Checks of a model against a run's configuration, which load its tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trm_agent.runs.origin import INIT_FROM, check_resumed, needs_first_weights

if TYPE_CHECKING:
    from omegaconf import DictConfig


def fitting_model(config: DictConfig, path: str, step: int) -> str:
    """Refuse a configuration that does not suit the model; return the folder of the first weights, or their hub id.

    Args:
        config: a configuration that passed `preflight.check`.
        path: the folder of the model, or its hub id.
        step: the step after which the session goes on; 0 for the first session.

    Raises:
        ValueError: the model cannot be loaded, or a setting does not fit it.
    """
    from trm_agent.evaluate.checkpoints.initial import check_whole
    from trm_agent.runs.model_facts import load_facts
    from trm_agent.runs.preflight import MODEL_PATH
    from trm_agent.runs.preflight_model import check_model

    facts = load_facts(config, path)
    check_model(config, facts)
    check_whole(MODEL_PATH, path)
    if not step:
        check_resumed(config, facts)
    if needs_first_weights(config, step):
        from trm_agent.evaluate.checkpoints.initial import initial_weights, suited_checkpoint

        path = str(initial_weights(suited_checkpoint(INIT_FROM, config.run.init_from, facts)))
    return path
