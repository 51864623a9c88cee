"""Whether a run trains a critic."""

from omegaconf import DictConfig, OmegaConf

ENABLE, ESTIMATOR = "critic.enable", "algorithm.adv_estimator"


def has_critic(config: DictConfig) -> bool:
    """Return True if verl trains one: it is asked for, or the estimator needs it."""
    enabled = OmegaConf.select(config, ENABLE)
    return str(OmegaConf.select(config, ESTIMATOR)) == "gae" if enabled is None else bool(enabled)
