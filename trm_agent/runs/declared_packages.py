"""Record the packages that an environment's programs may import in the configuration of a run or an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, open_dict

from trm_agent.runs.compose import plain
from trm_agent.tasks import make_env

PACKAGES = "packages"


def with_packages(env_id: str, module: str | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return an environment's keyword arguments with the packages that it declares itself, such as `sympy==1.14.0`.

    Args:
        env_id: a Gymnasium id.
        module: the module that registers it.
        kwargs: arguments of `gymnasium.make`.

    Raises:
        ValueError: a package is not installed, or has another version.
    """
    if PACKAGES in kwargs:
        return dict(kwargs)
    made = make_env(env_id, module, kwargs)
    try:
        declared = list(getattr(getattr(made.unwrapped, "options", None), PACKAGES, ()))
    finally:
        made.close()
    return {**kwargs, PACKAGES: declared} if declared else dict(kwargs)


def pin_packages(config: DictConfig) -> None:
    """Write the packages that an environment declares itself into a training's configuration."""
    env = config.env
    packages = with_packages(env.id, env.module, plain(env.kwargs)).get(PACKAGES)
    if packages:
        with open_dict(config):
            config.env.kwargs[PACKAGES] = packages
