"""Launch verl's `run_ppo` with a checked configuration."""

import functools
import importlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from types import SimpleNamespace
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from trm_agent import verl_plugin
from trm_agent.runs.engine_options import EXECUTOR
from trm_agent.runs.groups import ENGINE_THREADS
from trm_agent.runs.phases import mark
from trm_agent.runs.preflight import check_policy_loss
from trm_agent.runs.rollout_pool import devices_here, has_own_pool
from trm_agent.runs.verl_fates import verl_fields
from trm_agent.trust_region.engine_option import effective_option
from trm_agent.trust_region.recording import num_recorded
from trm_fields import OneOf, refuse

TRANSFER = "trm_agent.verl_plugin.transfer.registration"
AGENT_LOOPS = resources.files("trm_agent.verl_plugin.rollout") / "agent_loop.yaml"


def check(config: DictConfig) -> None:
    """Check the rules that need verl: its policy losses and its own validation.

    Raises:
        ValueError: an unknown policy loss, or a configuration that verl refuses.
        RuntimeError: verl did not load our plugin.
    """
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    import trm_agent.verl_plugin.actor.policy_loss  # noqa: F401  (registers `trm`)

    if not verl_plugin.LOADED:
        raise RuntimeError("verl did not load the plugin trm_agent: reinstall the package (pip install -e .)")
    with open_dict(config):
        config.actor_rollout_ref.rollout.agent.agent_loop_config_path = str(AGENT_LOOPS)
    check_policy_loss(config, POLICY_LOSS_REGISTRY)
    _let_vllm_record(config)
    _choose_executor(config)
    _serve_apart(config)
    with refused_by_verl():
        use_critic = need_critic(config)
        _check_critic(config, use_critic)
        validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=use_critic)
        for section in (config.actor_rollout_ref.rollout, config.algorithm):
            omega_conf_to_dataclass(section)
        _check_optimizer(config, "actor_rollout_ref.actor.optim")
        if use_critic:
            _check_optimizer(config, "critic.optim")


@contextmanager
def refused_by_verl() -> Iterator[None]:
    """Turn whatever verl raises at a configuration that it cannot use into a ValueError of one line."""
    try:
        yield
    except ValueError:
        raise
    except (AssertionError, TypeError, AttributeError, NotImplementedError, OSError, HydraException) as error:
        # Hydra tells the section, and hides the reason behind it
        section = re.search(r"full_key: ([\w.]+)", str(error))
        reason = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
        told = " ".join(str(reason).split()) or type(reason).__name__
        raise ValueError(f"{section[1]}: {told}" if section else f"verl: {told}") from error


def _check_critic(config: DictConfig, use_critic: bool) -> None:
    """Refuse a critic without a model of its own: verl's default is a folder of its authors."""
    path = str(config.critic.model.path)
    if use_critic and path == verl_fields()["fields"]["critic.model.path"][1]:
        refuse(
            "critic.model.path",
            None,
            "a folder with config.json, or a hub id",
            "give one, such as that of the policy",
            because=f"which algorithm.adv_estimator={config.algorithm.adv_estimator} needs",
        )


def _check_optimizer(config: DictConfig, section: str) -> None:
    """Refuse an optimizer whose module is not installed, and one that torch does not have."""
    import torch

    optim = OmegaConf.select(config, section)
    try:
        importlib.import_module(str(optim.optimizer_impl))
    except ImportError as error:
        remedy = "install its package, or leave it out"
        because = f"which cannot be imported ({error})"
        refuse(f"{section}.optimizer_impl", optim.optimizer_impl, "an installed module", remedy, because=because)
    if optim.optimizer_impl == "torch.optim":
        known = [name for name, item in vars(torch.optim).items() if isinstance(item, type)]
        OneOf(sorted(known)).check(f"{section}.optimizer", optim.optimizer)


def _let_vllm_record(config: DictConfig) -> None:
    """Raise vLLM's limit of log-probs per token to the estimator's needs, unless the user has set it."""
    loss, rollout = config.actor_rollout_ref.actor.policy_loss, config.actor_rollout_ref.rollout
    num = num_recorded(loss.trm.estimator, loss.trm.top_k, rollout.top_k) if loss.loss_mode == "trm" else 0
    if not num or effective_option(config, "max_logprobs")[1] is not None:
        return
    with open_dict(config):
        rollout.engine_kwargs.vllm.max_logprobs = num


def _choose_executor(config: DictConfig) -> None:
    """Let an engine on a CPU that is one process run in that of its server: one process fewer to start.

    An engine of several would wait there for the others for ever.
    """
    rollout = config.actor_rollout_ref.rollout
    if config.hardware.kind == "cpu" and effective_option(config, EXECUTOR)[1] is None:
        executor = "uni" if rollout.tensor_model_parallel_size == 1 else "mp"
        config.actor_rollout_ref.rollout.engine_kwargs.vllm.distributed_executor_backend = executor


def _serve_apart(config: DictConfig) -> None:
    """Give rollout servers with devices of their own the way of their weights, and a CPU's logical devices."""
    if not has_own_pool(config):
        return
    with open_dict(config):
        config.actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module = TRANSFER
        if config.hardware.kind == "cpu" and config.ray_kwargs.ray_init.get("num_gpus") is not None:
            config.ray_kwargs.ray_init.num_gpus = max(config.ray_kwargs.ray_init.num_gpus, devices_here(config))


class _Told(BaseException):
    """The arguments of `ray.init`."""


def checked(config: DictConfig) -> tuple[DictConfig, dict[str, Any]]:
    """Return a configuration as `check` leaves it, and what verl's `run_ppo` gives `ray.init` for it.

    For a process that is not the driver: Ray is not started.
    """
    from verl.trainer import main_ppo

    def tell(**arguments: Any) -> None:
        raise _Told(arguments)

    check(config)
    original, vars(main_ppo)["ray"] = main_ppo.ray, SimpleNamespace(is_initialized=lambda: False, init=tell)
    try:
        main_ppo.run_ppo(config, task_runner_class=None)
    except _Told as told:
        return config, told.args[0]
    finally:
        vars(main_ppo)["ray"] = original
    raise AssertionError("verl starts Ray in another way")


class _AfterRay:
    """A task runner that first tells that Ray has started: `run_ppo` starts both."""

    def __init__(self, runner: Any, started: Callable[[], None]) -> None:
        self._runner, self._started = runner, started

    def options(self, **options: Any) -> "_AfterRay":
        return _AfterRay(self._runner.options(**options), self._started)

    def remote(self) -> Any:
        self._started()
        return self._runner.remote()


def prepared(config: DictConfig) -> Callable[[Callable[[], None]], None]:
    """Check the rules that need verl, and return `run` for the checked configuration; raises as `check`."""
    check(config)
    return functools.partial(run, config)


def run(config: DictConfig, ray_started: Callable[[], None] = lambda: None) -> None:
    """Start Ray and train; returns after the last step. With the fork server `trm_agent.light_driver` does it.

    Args:
        config: a checked configuration.
        ray_started: called as soon as Ray has started, which takes signals over.
    """
    from verl.trainer.main_ppo import run_ppo

    from trm_agent.fork_server.ray_processes import in_their_own_session
    from trm_agent.verl_plugin.driver.runner import RunTaskRunner

    os.environ[ENGINE_THREADS] = str(config.hardware.engine_threads)
    with in_their_own_session():
        mark(config.run.dir, "driver")
        run_ppo(config, task_runner_class=_AfterRay(RunTaskRunner, ray_started))
