"""The models that a run makes or fetches by itself, once: nano and SmolLM2."""

from omegaconf import DictConfig

from trm_agent.models.smollm2 import SHAPE, SMOLLM2, ensure_smollm2
from trm_agent.runs.compose import plain
from trm_agent.runs.preflight import NANO


def made_model(config: DictConfig) -> str:
    """Return the folder of the run's model, or its hub id; make the nano model, or fetch SmolLM2, if it is not there.

    Raises:
        ValueError: a budget does not fit the nano model, or SmolLM2's context, or SmolLM2 cannot be had.
        WarmStartFailed: the nano model's warm start does not reach its target.
    """
    from trm_agent.runs.preflight_model import check_context, check_nano_budget

    path = str(config.actor_rollout_ref.model.path)
    if path == SMOLLM2:
        check_context(config, int(SHAPE["max_position_embeddings"]))
        return str(ensure_smollm2(say=lambda line: print(f"  {line}", flush=True)))
    if path != NANO:
        return path
    from trm_agent.models.nano import NanoSpec, ensure_nano_model

    spec = NanoSpec(**plain(config.nano))
    check_nano_budget(config, spec)
    return str(ensure_nano_model(spec))
