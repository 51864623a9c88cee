"""From a checked configuration to verl's `run_ppo`."""

from collections.abc import Callable
from importlib import resources
from typing import Any

from omegaconf import DictConfig, open_dict

from trm_agent import verl_plugin
from trm_agent.episode import Limits
from trm_agent.runs.chat import load_tokenizer, resolve_protocol, run_chat_tokens
from trm_agent.runs.compose import plain
from trm_agent.runs.preflight import check_budget, check_context, check_policy_loss, check_top_k
from trm_agent.runs.solver_tokens import measure_solver
from trm_agent.tasks import Task
from trm_agent.verl_plugin.driver.runner import mark
from trm_agent.verl_plugin.rollout.distributions import num_recorded

AGENT_LOOPS = resources.files("trm_agent.verl_plugin.rollout") / "agent_loop.yaml"


def check(config: DictConfig) -> None:
    """Run the checks that need verl and the model's tokenizer.

    Raises:
        ValueError: an unknown policy loss, a chat template that cannot be used, or a horizon that does not fit the
            token budget.
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
    resolve_protocol(config)
    _let_vllm_record(config)
    check_context(config, _max_positions(config))
    check_budget(config, _measure(config))
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))


def _max_positions(config: DictConfig) -> int | None:
    """Return the model's longest context, if that is the engine's."""
    from transformers import AutoConfig

    if config.actor_rollout_ref.rollout.max_model_len is not None:
        return None
    model = AutoConfig.from_pretrained(config.actor_rollout_ref.model.path).get_text_config()
    return getattr(model, "max_position_embeddings", None)


def _let_vllm_record(config: DictConfig) -> None:
    """Raise vLLM's limit of log-probs a token to what the estimator needs, unless the user has set it."""
    from transformers import AutoConfig

    loss = config.actor_rollout_ref.actor.policy_loss
    num = num_recorded(loss.trm.estimator, loss.trm.top_k) if loss.loss_mode == "trm" else 0
    if not num:
        return
    check_top_k(config, AutoConfig.from_pretrained(config.actor_rollout_ref.model.path).get_text_config().vocab_size)
    with open_dict(config):
        config.actor_rollout_ref.rollout.engine_kwargs.vllm.setdefault("max_logprobs", num)


def run(config: DictConfig) -> None:
    """Start Ray and train; returns after the last step."""
    from verl.trainer.main_ppo import run_ppo

    from trm_agent.verl_plugin.driver.runner import RunTaskRunner

    if config.hardware.fork_server:
        from trm_agent.fork_server import handle

        handle.use_for_ray()
    mark(config.run.dir, "driver")
    run_ppo(config, task_runner_class=RunTaskRunner)


def _measure(config: DictConfig) -> Callable[[dict[str, Any]], tuple[int, int]]:
    """How many tokens the solver's episode takes with the model's tokenizer; no response where there is no solver."""
    tokenizer = load_tokenizer(config.actor_rollout_ref.model.path)
    chat = run_chat_tokens(tokenizer, config)
    env, limits = config.env, Limits.from_mapping(plain(config.env.limits))

    def measure(options: dict[str, Any]) -> tuple[int, int]:
        task = Task(env.id, 0, options)
        found = measure_solver(task, env.module, plain(env.kwargs), tokenizer, chat, limits)
        if found.failure:
            print(f"token budgets not checked: {found.failure}", flush=True)
        return found.prompt, found.response

    return measure
