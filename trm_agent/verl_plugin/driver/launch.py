"""Launch verl's `run_ppo` with a checked configuration."""

from collections.abc import Callable
from importlib import resources
from typing import Any

from omegaconf import DictConfig, open_dict

from trm_agent import verl_plugin
from trm_agent.runs.preflight import check_policy_loss
from trm_agent.verl_plugin.driver.runner import mark
from trm_agent.verl_plugin.rollout.distributions import num_recorded

AGENT_LOOPS = resources.files("trm_agent.verl_plugin.rollout") / "agent_loop.yaml"


def check(config: DictConfig) -> None:
    """Check the rules that need verl: its policy losses and its own validation.

    Raises:
        ValueError: an unknown policy loss, or a configuration that verl refuses.
        RuntimeError: verl did not load our plugin.
    """
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    import trm_agent.verl_plugin.actor.policy_loss  # noqa: F401  (registers `trm`)

    if not verl_plugin.LOADED:
        raise RuntimeError("verl did not load the plugin trm_agent: reinstall the package (pip install -e .)")
    with open_dict(config):
        config.actor_rollout_ref.rollout.agent.agent_loop_config_path = str(AGENT_LOOPS)
    check_policy_loss(config, POLICY_LOSS_REGISTRY)
    _let_vllm_record(config)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))


def _let_vllm_record(config: DictConfig) -> None:
    """Raise vLLM's limit of log-probs per token to the estimator's needs, unless the user has set it."""
    loss = config.actor_rollout_ref.actor.policy_loss
    num = num_recorded(loss.trm.estimator, loss.trm.top_k) if loss.loss_mode == "trm" else 0
    if not num:
        return
    with open_dict(config):
        config.actor_rollout_ref.rollout.engine_kwargs.vllm.setdefault("max_logprobs", num)


class _AfterRay:
    """A task runner that first tells that Ray has started: `run_ppo` starts both."""

    def __init__(self, runner: Any, started: Callable[[], None]) -> None:
        self._runner, self._started = runner, started

    def options(self, **options: Any) -> "_AfterRay":
        return _AfterRay(self._runner.options(**options), self._started)

    def remote(self) -> Any:
        self._started()
        return self._runner.remote()


def run(config: DictConfig, ray_started: Callable[[], None] = lambda: None) -> None:
    """Start Ray and train; returns after the last step.

    Args:
        config: a checked configuration.
        ray_started: called as soon as Ray has started, which takes signals over.
    """
    from verl.trainer.main_ppo import run_ppo

    from trm_agent.verl_plugin.driver.ray_processes import in_their_own_session
    from trm_agent.verl_plugin.driver.runner import RunTaskRunner

    if config.hardware.fork_server:
        from trm_agent.fork_server import handle

        handle.use_for_ray()
    mark(config.run.dir, "driver")
    with in_their_own_session():
        run_ppo(config, task_runner_class=_AfterRay(RunTaskRunner, ray_started))
